"""Functions that become kernels, with and without parentheses."""

from collections.abc import Callable
from typing import Any

from pydotcompute.decorators.kernel import KernelRegistry, cuda_source, get_kernel_registry, gpu_kernel, kernel


@kernel
def double(value: float) -> float:
    return 2 * value


@kernel(name="halve", device="cpu", fastmath=False, cache=False)
def half(value: float) -> float:
    return value / 2


@gpu_kernel
def fill(out: Any) -> None:
    out[0] = 1


@gpu_kernel(name="clear", signature="void(float32[:])", fastmath=True, debug=False, cache=True)
@cuda_source('extern "C" __global__ void clear(float* out) { out[threadIdx.x] = 0; }')
def clear(out: Any) -> None:
    out[0] = 0


def use(out: Any) -> None:
    result: float = double(half(3.0))
    fill[1, 32](out)
    clear[(1, 1), (32, 1)](out)
    registry: KernelRegistry = get_kernel_registry()
    registry.register("double", double, overwrite=True)
    found: Callable[..., Any] | None = KernelRegistry().get("double")
    names: list[str] = registry.list()
    registry.clear()
    print(result, found, names)
