{
  self,
  pkgs,
  system,
}:
let
  inherit (pkgs) lib;

  node = {
    imports = [ self.nixosModules.default ];
    services.tgi = {
      enable = true;
      instances.demo = {
        modelId = "/var/lib/models/demo";
        openFirewall = true;
        settings = {
          max-concurrent-requests = 4;
          prefix-caching = false;
        };
      };
    };
  };
  push-cache = pkgs.callPackage ./push-cache.nix { };
  tiny-model = pkgs.callPackage ./tiny-model.nix { };
in
{
  package = pkgs.tgi; # its check phase runs the tests
  version = pkgs.testers.testVersion { package = pkgs.tgi; };
  help = pkgs.runCommand "tgi-help" { nativeBuildInputs = [ pkgs.tgi ]; } ''
    export HOME=$TMPDIR
    tgi serve --help > $out
  '';

  # The native kernels were compiled into the package, load, and multiply as numpy does.
  kernels =
    pkgs.runCommand "tgi-kernels"
      { nativeBuildInputs = [ (pkgs.python3.withPackages (ps: [ ps.tgi-toolkit ])) ]; }
      ''
        cd $TMPDIR
        python3 ${./check_kernels.py} > $out
        cat $out
      '';

  # The packaged program serves a tiny model on those kernels and answers requests.
  serve =
    pkgs.runCommand "tgi-serve"
      {
        nativeBuildInputs = [
          pkgs.python3
          pkgs.tgi
        ];
      }
      ''
        export HOME=$TMPDIR
        python3 ${./check_serve.py} ${lib.getExe pkgs.tgi} ${tiny-model} > $out
        cat $out
      '';

  push-cache = pkgs.runCommand "tgi-push-cache" { nativeBuildInputs = [ push-cache ]; } ''
    if CACHIX_CACHE=demo CACHIX_AUTH_TOKEN= push-cache 2> $out; then
      echo "push-cache went on without a token" >&2
      exit 1
    fi
    grep CACHIX_AUTH_TOKEN $out
  '';

  nix-format = pkgs.runCommand "tgi-nix-format" { nativeBuildInputs = [ pkgs.nixfmt ]; } ''
    nixfmt --check ${../flake.nix} ${./.}/*.nix && touch $out
  '';
  nix-lint =
    pkgs.runCommand "tgi-nix-lint"
      {
        nativeBuildInputs = [
          pkgs.deadnix
          pkgs.statix
        ];
      }
      ''
        deadnix --fail ${../flake.nix} ${./.}/*.nix
        for file in ${../flake.nix} ${./.}/*.nix; do
          statix check "$file"
        done
        touch $out
      '';
}
// lib.optionalAttrs pkgs.stdenv.hostPlatform.isLinux {
  module =
    let
      nixos = self.inputs.nixpkgs.lib.nixosSystem {
        inherit system;
        modules = [
          node
          {
            boot.isContainer = true;
            system.stateVersion = "26.05";
          }
        ];
      };
    in
    pkgs.writeText "tgi-units" nixos.config.systemd.services.tgi-demo.serviceConfig.ExecStart;
  vm = pkgs.testers.runNixOSTest {
    name = "tgi";
    nodes.machine = {
      imports = [ self.nixosModules.default ];
      virtualisation.memorySize = 4096;
      services.tgi = {
        enable = true;
        instances.demo.modelId = "${tiny-model}";
      };
    };
    testScript = ''
      machine.wait_for_unit("tgi-demo.service")
      machine.wait_for_open_port(3000)
      machine.wait_until_succeeds("curl --fail http://127.0.0.1:3000/health")
    '';
  };
}
