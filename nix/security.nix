# Python packages whose security floor (SECURITY.md) the locked nixpkgs misses. Each entry ends by itself when the lock
# has the version. The source distributions hold the generated C files, so the steps that make them are left out, and
# so are the tests: the recipes name those of the versions they were written for.
final: _: prev:
let
  inherit (final) lib;

  raise =
    name: version: hash: changes:
    if lib.versionAtLeast prev.${name}.version version then
      prev.${name}
    else
      prev.${name}.overridePythonAttrs (
        _:
        {
          inherit version;
          src = final.fetchPypi {
            pname = name;
            inherit version hash;
          };
          doCheck = false;
        }
        // changes
      );
in
{
  aiohttp = raise "aiohttp" "3.14.5" "sha256-VVin9aBa+ez3RK+R5brvxDb5PJMz5lbCfsJT+aa74Xg=" {
    postPatch = "";
    preBuild = "";
    env = { }; # its own llhttp, which its parser was generated for
  };
  # aiohttp 3.14.5 needs it.
  yarl = raise "yarl" "1.25.1" "sha256-A9043gm8IT6aiyl2Huwz7h1TGNrA5J2K825NJ4MOI6c=" { };
}
