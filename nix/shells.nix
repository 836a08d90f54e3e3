{
  mkShell,
  python3,
  python3Packages,
  tgi,

  # tools
  cachix,
  cmake,
  deadnix,
  ninja,
  nixfmt,
  ruff,
  statix,
}:
let
  tools = [
    cachix
    cmake
    deadnix
    ninja
    nixfmt
    ruff
    statix
  ];

  # What the tests import; import-linter and schemathesis are not in nixpkgs.
  testPackages = ps: [
    ps.gguf
    ps.httpx
    ps.hypothesis
    ps.jsonschema
    ps.mypy
    ps.openai
    ps.opentelemetry-exporter-otlp-proto-grpc
    ps.opentelemetry-exporter-otlp-proto-http
    ps.opentelemetry-sdk
    ps.prometheus-client
    ps.pyte
    ps.pytest
    ps.pytest-asyncio
    ps.pytest-timeout
    ps.pyyaml
    ps.safetensors
    ps.transformers
  ];
in
{
  # Dependencies from Nix, the project from the working tree. The kernels are compiled once, beside their source.
  pure = mkShell {
    packages = [ (python3.withPackages (ps: tgi.dependencies ++ testPackages ps)) ] ++ tools;
    shellHook = ''
      export PYTHONPATH=$PWD''${PYTHONPATH:+:$PYTHONPATH}
      echo "kernels: cmake -S . -B build/dev -G Ninja && cmake --build build/dev; then: python -m tgi serve"
    '';
  };

  # A virtual environment on top, for `pip install` of what Nix lacks; the project is installed editable.
  impure = mkShell {
    venvDir = "./.venv";
    packages = [
      (python3.withPackages (ps: tgi.dependencies ++ tgi.build-system ++ testPackages ps))
      python3Packages.venvShellHook
    ]
    ++ tools;
    postVenvCreation = ''
      unset SOURCE_DATE_EPOCH
      python -m pip install --no-build-isolation --no-deps --editable .
    '';
  };
}
