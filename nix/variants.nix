# `config` is nixpkgs' configuration. cudaCapabilities stays at its default on purpose: any other list changes every
# CUDA package, and no public cache has those.
{
  cpu = {
    config = { };
    systems = [
      "x86_64-linux"
      "aarch64-linux"
      "aarch64-darwin"
    ];
  };
  cuda = {
    config = {
      allowUnfree = true;
      cudaSupport = true;
    };
    systems = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
  rocm = {
    config.rocmSupport = true;
    systems = [ "x86_64-linux" ];
  };
}
