"""The installed package's native kernels load, are chosen, and multiply as numpy does: the flake's check `kernels`."""

from __future__ import annotations

import numpy as np

from tgi import kernels
from tgi.kernels.cpu import PATHS, find_library

library = find_library()
assert library is not None, "the package was built without its native kernels"
chosen = kernels.configure()
assert chosen in PATHS, chosen

values = np.linspace(-1, 1, 6 * 32, dtype=np.float32).reshape(6, 32)
weight = kernels.Matrix("F32", 6, 32, values.view(np.uint8).reshape(-1))
x = np.linspace(0, 1, 3 * 32, dtype=np.float32).reshape(3, 32)
np.testing.assert_allclose(kernels.matmul(x, kernels.PackedWeight((weight,))), x @ values.T, rtol=1e-5)
print(f"{chosen} kernels of {library}")
