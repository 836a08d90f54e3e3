{
  description = "tgi: serve large language models, the successor of Text Generation Inference";

  # Builds of nixpkgs with CUDA. A cache of our own joins this list when it exists.
  nixConfig = {
    extra-substituters = [ "https://cache.nixos-cuda.org" ];
    extra-trusted-public-keys = [
      "cache.nixos-cuda.org:74DUi4Ye579gUqzH4ziL9IyiJBlDpMRn9MBN8oNan9M="
    ];
  };

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;

      # Every other output follows from this table: a package set a variant, on the variant's systems.
      variants = import ./nix/variants.nix;

      pkgsFor =
        system: variant:
        import nixpkgs {
          inherit system;
          inherit (variants.${variant}) config;
          overlays = [ self.overlays.default ];
        };

      # f: system -> CPU package set -> output
      perSystem = f: lib.genAttrs variants.cpu.systems (system: f system (pkgsFor system "cpu"));

      # f: suffix -> variant -> package set -> attributes, for the variants of a system
      perVariant =
        system: f:
        lib.concatMapAttrs (
          name: variant:
          lib.optionalAttrs (lib.elem system variant.systems) (
            f (lib.optionalString (name != "cpu") "-${name}") name (pkgsFor system name)
          )
        ) variants;
    in
    {
      overlays.default = import ./nix/overlay.nix;

      packages = perSystem (
        system: pkgs:
        perVariant system (
          suffix: _: p:
          {
            "tgi${suffix}" = p.tgi;
          }
          // lib.optionalAttrs p.tgi.passthru.cudaSupport {
            "tgi${suffix}-full" = p.tgi-full;
          }
          // lib.optionalAttrs p.stdenv.hostPlatform.isLinux {
            "image${suffix}" = p.callPackage ./nix/image.nix { };
          }
        )
        // {
          default = pkgs.tgi;
          tgi-with-model = pkgs.tgi-with-model;
        }
      );

      apps = perSystem (
        system: pkgs:
        lib.mapAttrs (name: package: {
          type = "app";
          program = lib.getExe package;
          meta.description = "tgi command line (${name})";
        }) (lib.filterAttrs (name: _: lib.hasPrefix "tgi" name) self.packages.${system})
        // {
          default = self.apps.${system}.tgi;
          push-cache = {
            type = "app";
            program = lib.getExe (pkgs.callPackage ./nix/push-cache.nix { });
            meta.description = "build packages and shells, and push them to a Cachix cache";
          };
        }
      );

      devShells = perSystem (
        system: _:
        perVariant system (
          suffix: name: p:
          let
            shells = p.callPackage ./nix/shells.nix { };
          in
          {
            ${if name == "cpu" then "default" else name} = shells.pure;
            "impure${suffix}" = shells.impure;
          }
        )
      );

      checks = perSystem (system: pkgs: import ./nix/checks.nix { inherit self pkgs system; });

      formatter = perSystem (_: pkgs: pkgs.nixfmt-tree);

      nixosModules.default = import ./nix/module.nix self;
    };
}
