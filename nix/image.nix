{
  lib,
  cacert,
  dockerTools,
  tgi,
}:
dockerTools.streamLayeredImage {
  name = "tgi";
  tag = tgi.version;
  maxLayers = 100;
  contents = [
    cacert
    dockerTools.fakeNss
  ];
  extraCommands = ''
    mkdir -p data tmp
    chmod 1777 data tmp
  '';
  config = {
    Entrypoint = [ (lib.getExe tgi) ];
    Cmd = [
      "serve"
      "--hostname"
      "0.0.0.0"
      "--port"
      "80"
    ];
    Env = [
      "HF_HOME=/data"
      "XDG_CACHE_HOME=/data/cache"
      # Where container runtimes mount the host's driver; nothing else is in these folders.
      "LD_LIBRARY_PATH=/usr/lib64:/usr/local/nvidia/lib64"
    ];
    ExposedPorts."80/tcp" = { };
    Volumes."/data" = { };
  };
}
