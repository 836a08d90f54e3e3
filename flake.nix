{
  description = "tgi: serve large language models, the successor of Text Generation Inference";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "aarch64-darwin"
      ];
      # f: package set -> output
      perSystem =
        f:
        lib.genAttrs systems (
          system:
          f (
            import nixpkgs {
              inherit system;
              overlays = [ self.overlays.default ];
            }
          )
        );
    in
    {
      overlays.default = final: prev: {
        pythonPackagesExtensions = prev.pythonPackagesExtensions ++ [
          (python: _: { tgi-toolkit = python.callPackage ./nix/package.nix { }; })
        ];
        tgi = final.python3Packages.toPythonApplication final.python3Packages.tgi-toolkit;
      };

      packages = perSystem (pkgs: {
        inherit (pkgs) tgi;
        default = pkgs.tgi;
      });

      apps = perSystem (pkgs: {
        default = {
          type = "app";
          program = lib.getExe pkgs.tgi;
          meta.description = "tgi command line";
        };
      });

      devShells = perSystem (pkgs: {
        default = (pkgs.callPackage ./nix/shells.nix { }).pure;
      });

      checks = perSystem (pkgs: import ./nix/checks.nix { inherit pkgs; });

      formatter = perSystem (pkgs: pkgs.nixfmt-tree);
    };
}
