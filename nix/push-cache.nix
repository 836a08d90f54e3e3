{
  writeShellApplication,
  cachix,
}:
writeShellApplication {
  name = "push-cache";
  runtimeInputs = [ cachix ]; # nix is the user's own
  text = builtins.readFile ./push-cache.sh;
}
