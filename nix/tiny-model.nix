# A random model of a few kilobytes for checks, by the same code as the tests'.
{ python3, runCommand }:
runCommand "tgi-tiny-model"
  {
    nativeBuildInputs = [
      (python3.withPackages (ps: [
        ps.tokenizers
        ps.torch
        ps.transformers
      ]))
    ];
  }
  ''
    export HOME=$TMPDIR
    mkdir -p $out
    cp ${../tests/tiny_models.py} $TMPDIR/tiny_models.py
    cd $TMPDIR
    PYTHONPATH=$TMPDIR python3 -c "
    from pathlib import Path
    from tiny_models import tiny_model
    tiny_model(Path('$out'))
    "
  ''
