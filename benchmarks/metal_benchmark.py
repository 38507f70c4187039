"""The Metal backend (MLX) beside NumPy: copies, vectors and matrices, and from which size on MLX wins.

On a Mac, MLX uses the GPU. On Linux (`pip install mlx[cpu]`) it computes on the CPU, which tests the code but says nothing about the speed
of a Mac. Without MLX, only NumPy is measured, and the output says why.

    python benchmarks/metal_benchmark.py                              # vectors up to 1,000,000 elements, matrices up to 2048²
    python benchmarks/metal_benchmark.py --size 1000000 10000000      # other vectors
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from _harness import CLOCK, arguments, check, progress
from _scaling import Device, Limits, Row, Scaling, crossover, sample
from _scaling_report import report_scaling
from pydotcompute.backends.metal import (
    MetalBackend,
    get_elementwise_kernel,
    get_matrix_multiply_kernel,
    get_vector_add_kernel,
)

CASE = "float32"
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Operation:
    """An operation at one size.

    Attributes:
        name: Name of the operation.
        size: Elements of each vector, or rows of each square matrix.
        items: Elements of the result; of a matrix product, its floating-point operations.
        by_numpy: Does it with NumPy.
        by_mlx: Does it with the backend and returns the result as NumPy's array.
        expected: The result.
    """

    name: str
    size: int
    items: float
    by_numpy: Callable[[], Array]
    by_mlx: Callable[[], Any]
    expected: NDArray[Any]


def vectors(backend: MetalBackend, size: int) -> list[Operation]:
    """Return the operations on vectors. Those that compute include the copy of the result to the host."""
    random = np.random.default_rng(seed=1)
    left, right = random.random(size, dtype=np.float32), random.random(size, dtype=np.float32)
    has_mlx = backend.is_available
    on_device = [backend.copy_to_device(vector) for vector in (left, right)] if has_mlx else []

    def there_and_awaited() -> Any:
        copy = backend.copy_to_device(left)
        backend.synchronize()
        return copy

    def add() -> Array:
        return launched(backend, get_vector_add_kernel(), on_device)

    def root() -> Array:
        return launched(backend, get_elementwise_kernel("sqrt"), on_device[:1])

    return [
        Operation("copy_to_device", size, size, left.copy, there_and_awaited, left),
        Operation("copy_to_host", size, size, left.copy, lambda: backend.copy_to_host(on_device[0]), left),
        Operation("vector_add", size, size, lambda: left + right, add, left + right),
        Operation("sqrt", size, size, lambda: np.sqrt(left), root, np.sqrt(left)),
    ]


def matrices(backend: MetalBackend, rows: int) -> list[Operation]:
    """Return the product of two square matrices, with the copy of the result to the host."""
    random = np.random.default_rng(seed=2)
    left, right = random.random((rows, rows), dtype=np.float32), random.random((rows, rows), dtype=np.float32)
    on_device = [backend.copy_to_device(matrix) for matrix in (left, right)] if backend.is_available else []

    def multiply() -> Array:
        return launched(backend, get_matrix_multiply_kernel(), on_device)

    expected = left.astype(np.float64) @ right.astype(np.float64)
    return [Operation("matmul", rows, 2.0 * rows**3, lambda: left @ right, multiply, expected)]


def launched(backend: MetalBackend, kernel: Callable[..., Any] | None, operands: list[Any]) -> Array:
    """Run a kernel of the backend, and copy its result to the host."""
    if kernel is None:
        raise SystemExit("metal_benchmark: MLX is available, but the backend has no kernel for one of its operations")
    result: Array = backend.copy_to_host(kernel(*operands))
    return result


def timed(call: Callable[[], Any]) -> list[int]:
    """Return the duration of one call, in nanoseconds."""
    start = CLOCK()
    call()
    return [CLOCK() - start]


def measure(scaling: Scaling, backend: MetalBackend, operation: Operation) -> None:
    """Check an operation with NumPy and MLX, and time it."""
    mlx_device: Device = "gpu" if backend.uses_gpu else "cpu"
    subjects: list[tuple[str, Callable[[], Any], Device]] = [("numpy", operation.by_numpy, "cpu")]
    if backend.is_available:
        subjects.append(("mlx", operation.by_mlx, mlx_device))
    for subject, call, _ in subjects:
        result = call()
        on_host = backend.copy_to_host(result) if operation.name == "copy_to_device" and subject == "mlx" else result
        what = f"{operation.name} of {operation.size:,} by {subject}"
        check(bool(np.allclose(on_host, operation.expected, rtol=1e-3)), f"{what}: the result is wrong")
    samples = sample({subject: partial(timed, call) for subject, call, _ in subjects}, scaling.limits)
    for subject, _, device in subjects:
        scaling.rows.append(Row(CASE, operation.name, subject, operation.size, samples[subject], operation.items, device))


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = arguments(__doc__, "metal")
    parser.add_argument("--size", type=int, nargs="+", help="elements of the vectors (1000 to 1000000; with --quick 1000)")
    parser.add_argument("--matrix", type=int, nargs="+", help="rows of the square matrices (64 to 2048; with --quick 64 128)")
    parser.add_argument("--memory", type=float, default=1, help="skip operands that need more memory, in GiB (%(default)g)")
    parser.add_argument("--sampling", type=float, help="time to spend on each row, in seconds (0.5; with --quick 0.01)")
    options = parser.parse_args()
    options.size = options.size or ([1000] if options.quick else [1000, 10_000, 100_000, 1_000_000])
    options.matrix = options.matrix or ([64, 128] if options.quick else [64, 128, 256, 512, 1024, 2048])
    return options


def main() -> int:
    """Measure and report."""
    options = parse()
    limits = Limits(options.sampling or (0.01 if options.quick else 0.5), float("inf"), options.memory * 2**30)
    scaling = Scaling("elements or rows", "operations", limits)
    backend = MetalBackend()
    if not backend.is_available:
        scaling.skip("mlx", "MLX is not installed: pip install 'pydotcompute[metal]'")
    sized = [(vectors, size, 16 * size) for size in options.size] + [(matrices, rows, 36 * rows**2) for rows in options.matrix]
    for make, size, needed_bytes in progress(sized, "sizes"):
        if reason := scaling.too_large(needed_bytes):
            scaling.skip("all", reason, CASE, size)
            continue
        for operation in make(backend, size):
            measure(scaling, backend, operation)
    scaling.checks.append("Checked: every result of MLX is that of NumPy, within 0.1 %.")
    found = [crossover(scaling.rows, operation, case, "mlx", "numpy") for operation, case, _ in scaling.groups()]
    where = "on the GPU" if backend.uses_gpu else "on the CPU: these figures say nothing about a Mac's GPU"
    notes = [
        *([f"MLX computes {where}."] if backend.is_available else []),
        "Size: elements of each vector, rows of each square matrix. Operations: one per element; of a matrix product, 2 × rows³ "
        "floating-point operations. vector_add, sqrt and matmul include copying the result to the host.",
    ]
    report_scaling(options, "Metal backend", scaling, [one for one in found if one.sizes], notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
