self:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.tgi;
  inherit (lib) mkOption types;

  instance = types.submodule {
    options = {
      modelId = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "HuggingFaceTB/SmolLM2-135M-Instruct";
        description = "Hub id, folder or .gguf file; null serves the default model.";
      };
      host = mkOption {
        type = types.str;
        default = "127.0.0.1";
        description = "Address to listen on.";
      };
      port = mkOption {
        type = types.port;
        default = 3000;
        description = "Port to listen on.";
      };
      openFirewall = mkOption {
        type = types.bool;
        default = false;
        description = "Open the port in the firewall.";
      };
      environmentFile = mkOption {
        type = types.nullOr types.path;
        default = null;
        description = "File with secrets such as HF_TOKEN and API_KEY, which flags would show to every user.";
      };
      settings = mkOption {
        type = types.attrsOf (
          types.oneOf [
            types.bool
            types.int
            types.float
            types.str
            (types.listOf types.str)
          ]
        );
        default = { };
        example = {
          max-concurrent-requests = 32;
          prefix-caching = false;
        };
        description = "Further flags of `tgi serve`; a list repeats its flag.";
      };
    };
  };

  # A false flag is given too: some are on by default.
  flags =
    name: value:
    if builtins.isBool value then
      [ "--${lib.optionalString (!value) "no-"}${name}" ]
    else
      lib.concatMap (one: [
        "--${name}"
        (toString one)
      ]) (lib.toList value);
in
{
  options.services.tgi = {
    enable = lib.mkEnableOption "tgi inference servers";
    package = mkOption {
      type = types.package;
      default = self.packages.${pkgs.stdenv.hostPlatform.system}.default;
      defaultText = lib.literalExpression "the flake's default package";
      description = "Package to run: tgi, tgi-with-model, tgi-cuda, ...";
    };
    instances = mkOption {
      type = types.attrsOf instance;
      default = { };
      description = "One server an attribute, as the unit tgi-<name>.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion =
          let
            ports = lib.mapAttrsToList (_: i: i.port) cfg.instances;
          in
          lib.length (lib.unique ports) == lib.length ports;
        message = "services.tgi.instances: two servers share a port";
      }
    ];

    networking.firewall.allowedTCPPorts = lib.concatMap (i: lib.optional i.openFirewall i.port) (
      lib.attrValues cfg.instances
    );

    systemd.services = lib.mapAttrs' (
      name: i:
      lib.nameValuePair "tgi-${name}" {
        description = "tgi server ${name}";
        wantedBy = [ "multi-user.target" ];
        after = [ "network-online.target" ];
        wants = [ "network-online.target" ];
        environment = {
          HF_HOME = "/var/lib/tgi/hub";
          XDG_CACHE_HOME = "/var/lib/tgi/cache";
        };
        serviceConfig = {
          ExecStart = lib.escapeShellArgs (
            [
              (lib.getExe cfg.package)
              "serve"
              "--hostname"
              i.host
              "--port"
              (toString i.port)
            ]
            ++ lib.optionals (i.modelId != null) [
              "--model-id"
              i.modelId
            ]
            ++ lib.concatLists (lib.mapAttrsToList flags i.settings)
          );
          EnvironmentFile = lib.optional (i.environmentFile != null) i.environmentFile;
          DynamicUser = true;
          User = "tgi"; # one for all instances: they share the models below StateDirectory
          StateDirectory = "tgi";
          WorkingDirectory = "/var/lib/tgi";
          Restart = "on-failure";
          RestartSec = 5;
          # SIGTERM is for the front end alone, which then lets requests finish for at most 90 s.
          KillMode = "mixed";
          TimeoutStopSec = 100;
          # GPUs need their device nodes, kernels compiled at run time need memory that is written, then executed.
          PrivateDevices = false;
          MemoryDenyWriteExecute = false;
          CapabilityBoundingSet = "";
          LockPersonality = true;
          NoNewPrivileges = true;
          PrivateTmp = true;
          PrivateUsers = true;
          ProtectClock = true;
          ProtectControlGroups = true;
          ProtectHome = true;
          ProtectHostname = true;
          ProtectKernelLogs = true;
          ProtectKernelModules = true;
          ProtectKernelTunables = true;
          ProtectSystem = "strict";
          RestrictAddressFamilies = [
            "AF_INET"
            "AF_INET6"
            "AF_UNIX"
          ];
          RestrictNamespaces = true;
          RestrictRealtime = true;
          RestrictSUIDSGID = true;
          SystemCallArchitectures = "native";
          UMask = "0077";
        };
      }
    ) cfg.instances;
  };
}
