final: prev: {
  pythonPackagesExtensions = prev.pythonPackagesExtensions ++ [
    (import ./security.nix final)
    (python: _: { tgi-toolkit = python.callPackage ./package.nix { }; })
  ];

  tgi = final.python3Packages.toPythonApplication final.python3Packages.tgi-toolkit;

  # With what takes hours to compile and no public cache holds.
  tgi-full = final.tgi.override {
    withEetq = true;
    withFlashAttn = true;
  };

  # With the default model inside: `tgi serve` then needs neither a hub nor a package index.
  tgi-with-model = final.tgi.override { defaultModel = final.tgi-default-model; };
  tgi-default-model = final.callPackage ./default-model.nix { };
}
