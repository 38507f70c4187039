"""Measure the Metal backend (MLX): copies to and from the device, and kernels, with NumPy as the baseline.

On a Mac, MLX uses the GPU. On Linux (`pip install mlx[cpu]`) it runs on the CPU, which tests the code but says nothing about the speed of
a Mac. Without MLX the benchmark exits with an error.

    python benchmarks/metal_benchmark.py --size 1000000
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from _harness import Series, arguments, check, progress, report, time_blocks
from pydotcompute.backends.metal import MetalBackend, get_elementwise_kernel, get_vector_add_kernel
from pydotcompute.exceptions import BackendNotAvailableError


def subjects(backend: MetalBackend, size: int) -> dict[str, tuple[Callable[[], Any], Callable[[Any], bool], bool]]:
    """Return the operations to measure.

    Args:
        backend: The backend.
        size: Number of elements of each float32 vector.

    Returns:
        By name: the operation, a check of its result, and whether it is a baseline.
    """
    random = np.random.default_rng(seed=1)
    left, right = random.random(size, dtype=np.float32), random.random(size, dtype=np.float32)
    on_device = [backend.copy_to_device(vector) for vector in (left, right)]
    add, root = get_vector_add_kernel(), get_elementwise_kernel("sqrt")
    if add is None or root is None:
        raise SystemExit("metal_benchmark: MLX is available, but the backend has no kernels for vector_add and sqrt")

    def launch(kernel: Callable[..., Any], *vectors: Any) -> Any:
        result = kernel(*vectors)
        backend.synchronize()
        return backend.copy_to_host(result)

    def is_sum(result: Any) -> bool:
        return bool(np.allclose(result, left + right))

    return {
        "copy_to_device": (
            lambda: backend.copy_to_device(left),
            lambda copy: bool(np.array_equal(backend.copy_to_host(copy), left)),
            False,
        ),
        "copy_to_host": (lambda: backend.copy_to_host(on_device[0]), lambda copy: bool(np.array_equal(copy, left)), False),
        "vector_add": (lambda: launch(add, *on_device), is_sum, False),
        "sqrt": (lambda: launch(root, on_device[0]), lambda result: bool(np.allclose(result, np.sqrt(left), rtol=1e-3)), False),
        "numpy copy": (left.copy, lambda copy: bool(np.array_equal(copy, left)), True),
        "numpy add": (lambda: left + right, is_sum, True),
    }


def main() -> int:
    """Measure and report, or say why measuring is not possible."""
    parser = arguments(__doc__, "metal")
    parser.add_argument("--size", type=int, default=1_000_000, help="elements of each vector of float32 (%(default)s)")
    options = parser.parse_args()
    backend = MetalBackend()
    try:
        backend.synchronize()
    except BackendNotAvailableError as error:
        raise SystemExit(f"metal_benchmark: nothing was measured: {error}") from error
    series = []
    for name, (operation, is_right, reference) in progress(list(subjects(backend, options.size).items()), "operations"):
        check(is_right(operation()), f"{name}: the result is wrong")
        series.append(
            Series(name, time_blocks(operation, 1, 10 if options.quick else 200), what=f"{options.size:,} float32", reference=reference)
        )
    report(options, "Metal backend", series, [f"{options.size:,} float32 each; vector_add and sqrt include copying the result to the host"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
