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
  msgspec,
  numpy,
  pip,
  platformdirs,
  prometheus-client,
  psutil,
  rich,
  swagger-ui-py,
  tokenizers,
  torch,
  tqdm,
  uvloop,

  # tests
  pytest-asyncio,
  pytest-timeout,
  pytestCheckHook,
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
      (fs.fileFilter (f: f.hasExt "py") ../tgi)
      (fs.fileFilter (f: f.hasExt "cpp" || f.hasExt "h") ../tgi/kernels/native)
      (fs.fileFilter (f: f.hasExt "py") ../tests)
    ];
  };

  # pyproject.toml names it, the source leaves it out.
  postPatch = ''
    touch README.md
  '';

  build-system = [
    cmake
    ninja
    scikit-build-core
  ];
  dontUseCmakeConfigure = true; # scikit-build-core calls cmake itself

  dependencies = [
    aiohttp
    click
    huggingface-hub
    jinja2
    msgspec
    numpy
    pip
    platformdirs
    prometheus-client
    psutil
    rich
    swagger-ui-py
    tokenizers
    torch
    tqdm
    uvloop
  ];

  nativeCheckInputs = [
    pytest-asyncio
    pytest-timeout
    pytestCheckHook
  ];
  # The tests see the installed copy, which has the compiled kernels, not the source.
  preCheck = ''
    rm -r tgi
  '';
  # Those that need neither a model from the network nor the test tools nixpkgs lacks.
  enabledTestPaths = [
    "tests/cli"
    "tests/test_config.py"
    "tests/test_errors.py"
    "tests/test_log.py"
  ];
  disabledTestPaths = [ "tests/cli/test_page.py" ];
  pythonImportsCheck = [
    "tgi.cli.main"
    "tgi.kernels"
  ];

  makeWrapperArgs = [ "--set-default TGI_NIX 1" ];

  meta = {
    inherit (project) description;
    license = lib.licenses.asl20;
    mainProgram = "tgi";
    platforms = lib.platforms.unix;
  };
}
