# Builds packages and shells of this flake and pushes them, with everything they need, to a Cachix cache.
#
#   CACHIX_CACHE=NAME CACHIX_AUTH_TOKEN=... nix run .#push-cache -- [INSTALLABLE...]

if [ -z "${CACHIX_CACHE:-}" ]; then
  echo "error: CACHIX_CACHE is not set: which cache to push to" >&2
  exit 2
fi
if [ -z "${CACHIX_AUTH_TOKEN:-}" ]; then
  echo "error: CACHIX_AUTH_TOKEN is not set: pushing to $CACHIX_CACHE needs its token" >&2
  exit 2
fi
if [ $# -eq 0 ]; then
  system=$(nix eval --impure --raw --expr builtins.currentSystem)
  set -- .#tgi ".#devShells.$system.default"
fi
for installable in "$@"; do
  echo "building $installable" >&2
  # In a variable, so that a failed build ends the script before anything is pushed.
  paths=$(nix build --no-link --print-out-paths "$installable")
  cachix push "$CACHIX_CACHE" <<<"$paths"
done
