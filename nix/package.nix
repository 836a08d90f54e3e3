{
  lib,
  buildPythonPackage,

  # build-system
  cmake,
  ninja,
  scikit-build-core,

  # dependencies
  aiohttp,
  click,
  huggingface-hub,
  jinja2,
  llguidance,
  msgspec,
  numpy,
  pip,
  platformdirs,
  psutil,
  rich,
  swagger-ui-py,
  tokenizers,
  torch,
  tqdm,
  uvloop,

  # of --otlp-endpoint
  opentelemetry-exporter-otlp-proto-grpc,
  opentelemetry-exporter-otlp-proto-http,
  opentelemetry-sdk,

  # of GPU variants
  bitsandbytes,
  flash-attn,
  kernels,

  # tests
  gguf,
  hypothesis,
  pytest-asyncio,
  pytest-timeout,
  pytestCheckHook,

  withBitsandbytes ? torch.cudaSupport || torch.rocmSupport,
  withEetq ? false, # fetched at run time by the package `kernels`
  withFlashAttn ? false,
  withTracing ? true,
  defaultModel ? null, # of ./default-model.nix
}:
let
  fs = lib.fileset;
  inherit (lib.importTOML ../pyproject.toml) project;
in
buildPythonPackage {
  pname = project.name;
  inherit (project) version;
  pyproject = true;

  # Only what the wheel and its tests need: editing documentation or Nix files does not rebuild the package.
  src = fs.toSource {
    root = ../.;
    fileset = fs.unions [
      ../pyproject.toml
      ../CMakeLists.txt
      ../tgi
      (fs.fileFilter (f: f.hasExt "py") ../tests)
    ];
  };

  # pyproject.toml names it, the source leaves it out.
  postPatch = ''
    touch README.md
  '';

  # The native CPU kernels are compiled by the build backend: it calls cmake itself.
  build-system = [
    cmake
    ninja
    scikit-build-core
  ];
  dontUseCmakeConfigure = true;

  dependencies = [
    aiohttp
    click
    huggingface-hub
    jinja2
    llguidance
    msgspec
    numpy
    pip
    platformdirs
    psutil
    rich
    swagger-ui-py
    tokenizers
    torch
    tqdm
    uvloop
  ]
  ++ lib.optional withBitsandbytes bitsandbytes
  ++ lib.optional withEetq kernels
  ++ lib.optional withFlashAttn flash-attn
  ++ lib.optionals withTracing [
    opentelemetry-exporter-otlp-proto-grpc
    opentelemetry-exporter-otlp-proto-http
    opentelemetry-sdk
  ];

  nativeCheckInputs = [
    gguf
    hypothesis
    pytest-asyncio
    pytest-timeout
    pytestCheckHook
  ];
  # The tests see the installed copy, which has the compiled kernels, not the source.
  preCheck = ''
    rm -r tgi
  '';
  # The compiled kernels, the engine's core, and what the installed program says; none needs a model or a network.
  enabledTestPaths = [
    "tests/cli/test_driver.py"
    "tests/cli/test_env.py"
    "tests/cli/test_main.py"
    "tests/cli/test_options.py"
    "tests/engine"
    "tests/kernels"
    "tests/test_config.py"
    "tests/test_errors.py"
    "tests/test_log.py"
    "tests/test_wire.py"
  ];
  pythonImportsCheck = [
    "tgi.cli.main"
    "tgi.kernels"
  ];

  makeWrapperArgs = [
    "--set-default TGI_NIX 1"
  ]
  ++ lib.optional (!torch.cudaSupport) "--set-default TGI_CUDA_DRIVER off"
  ++ lib.optional (
    defaultModel != null
  ) "--set-default TGI_DEFAULT_MODEL ${defaultModel}/${defaultModel.file}";

  passthru = {
    inherit (torch) cudaSupport;
  };

  meta = {
    inherit (project) description;
    license = lib.licenses.asl20;
    mainProgram = "tgi";
    platforms = lib.platforms.unix;
  };
}
