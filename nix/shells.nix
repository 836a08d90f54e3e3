{
  mkShell,
  cmake,
  ninja,
  nixfmt,
  python3,
  ruff,
  tgi,
}:
{
  # Dependencies from Nix, the project from the working tree. The kernels are compiled once, beside their source.
  pure = mkShell {
    packages = [
      (python3.withPackages (
        ps:
        tgi.dependencies
        ++ [
          ps.gguf
          ps.hypothesis
          ps.mypy
          ps.pytest
          ps.pytest-asyncio
          ps.pytest-timeout
          ps.safetensors
          ps.transformers
        ]
      ))
      cmake
      ninja
      nixfmt
      ruff
    ];
    shellHook = ''
      export PYTHONPATH=$PWD''${PYTHONPATH:+:$PYTHONPATH}
      echo "kernels: cmake -S . -B build/dev -G Ninja && cmake --build build/dev; then: python -m tgi serve"
    '';
  };
}
