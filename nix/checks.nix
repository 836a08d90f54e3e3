{ pkgs }:
{
  package = pkgs.tgi; # its check phase runs the tests
  version = pkgs.testers.testVersion { package = pkgs.tgi; };
  help = pkgs.runCommand "tgi-help" { nativeBuildInputs = [ pkgs.tgi ]; } ''
    export HOME=$TMPDIR
    tgi serve --help > $out
  '';
  nix-format = pkgs.runCommand "tgi-nix-format" { nativeBuildInputs = [ pkgs.nixfmt ]; } ''
    nixfmt --check ${../flake.nix} ${./.}/*.nix && touch $out
  '';
}
