"""Shows that an installed wheel works with nothing beside it but NumPy and msgpack. `cargo xtask test` runs it, not pytest."""

from __future__ import annotations

import importlib.metadata
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import pydotcompute
from pydotcompute.compilation import KernelCache
from pydotcompute.decorators import kernel
from pydotcompute.exceptions import KernelNotFoundError

OPTIONAL = {"cupy", "mlx", "numba", "torch"}


def where_it_came_from() -> None:
    """It is the wheel that is imported, of one version throughout, and it imports nothing that is optional."""
    assert Path(pydotcompute.__file__).is_relative_to(sys.prefix), pydotcompute.__file__
    assert pydotcompute.__version__ == importlib.metadata.version("pydotcompute")
    assert not OPTIONAL & sys.modules.keys()
    assert (Path(pydotcompute.__file__).parent / "py.typed").is_file()


@kernel
def add(a: Sequence[float], b: Sequence[float]) -> object:
    """Adds two arrays."""
    return np.add(a, b)


def kernels_run_as_plain_python() -> None:
    """Without Numba, a kernel is the function that it was, and one warning says so."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert np.array_equal(add([1.0, 2.0], [3.0, 4.0]), [4, 6])  # type: ignore[arg-type]
    assert len(caught) == 1 and "Numba is not installed" in str(caught[0].message)


def the_cache_keeps(folder: Path) -> None:
    """What is stored is there for another object."""
    assert KernelCache(folder).store("add", "hash", b"code")
    assert KernelCache(folder).load("add", "hash") == b"code"


if __name__ == "__main__":
    where_it_came_from()
    kernels_run_as_plain_python()
    the_cache_keeps(Path(sys.prefix) / "kernels")
    assert KernelNotFoundError("sensor", ["pump"]).available == ["pump"]
    print(f"pydotcompute {pydotcompute.__version__} works in {sys.prefix}")
