"""MLX copy of a buffer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydotcompute._optional import import_mlx
from pydotcompute.exceptions import BackendNotAvailableError, BufferSyncError, MetalError

__all__ = ["MetalCopy", "mlx_dtype"]

_TYPES = frozenset(
    ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "complex64"],
)


def mlx_dtype(mlx: Any, dtype: np.dtype[Any]) -> Any:
    """Returns the MLX type of a NumPy type. 64-bit floats map to 32-bit floats, because Apple GPUs have no others.

    Args:
        mlx: The module ``mlx.core``.
        dtype: NumPy type.

    Returns:
        The MLX type.

    Raises:
        MetalError: MLX does not support the type.
    """
    name = "float32" if dtype == np.float64 else dtype.name
    if name not in _TYPES or not dtype.isnative:
        raise MetalError(f"MLX does not support elements of type {dtype.str!r}; convert them to one of: {', '.join(sorted(_TYPES))}")
    return getattr(mlx, "bool_" if name == "bool" else name)


class MetalCopy:
    """MLX copy of a buffer, beside its host and device copies.

    Attributes:
        array: The array; ``None`` before the first access.
        is_current: Whether it equals the host copy.
        is_dirty: Whether it was written since the last copy.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._shape = shape
        self._dtype = dtype
        self.array: Any | None = None
        self.is_current = False
        self.is_dirty = False

    @property
    def is_stale(self) -> bool:
        """Whether it must be copied from the host before the next access."""
        return not (self.is_current or self.is_dirty)

    def read_from(self, host: NDArray[Any]) -> None:
        """Copies the elements from the host copy.

        Raises:
            MetalError: MLX is not installed, or does not support the type.
            BufferSyncError: The copy failed.
        """
        try:
            mlx = import_mlx()
        except BackendNotAvailableError as error:
            raise MetalError(f"Metal not available: {error.reason}") from error
        dtype = mlx_dtype(mlx, self._dtype)
        try:
            self.array = mlx.array(host, dtype=dtype)
            # Evaluated now, before the host copy changes.
            mlx.eval(self.array)
        except (RuntimeError, ValueError, TypeError) as error:
            raise BufferSyncError("host->metal", error) from error
        self.is_current, self.is_dirty = True, False

    def write_to(self, host: NDArray[Any]) -> None:
        """Copies the elements to the host copy.

        Raises:
            BufferSyncError: The copy failed.
        """
        try:
            host[...] = np.asarray(self.array)
        except (RuntimeError, ValueError, TypeError) as error:
            self.is_dirty = True
            raise BufferSyncError("metal->host", error) from error
        self.is_current, self.is_dirty = True, False

    def replace(self, array: Any) -> None:
        """Replaces the array, and marks it as dirty.

        Raises:
            MetalError: The new array is not an MLX array, or its shape or type differs.
        """
        try:
            mlx = import_mlx()
        except BackendNotAvailableError as error:
            raise MetalError(f"Metal not available: {error.reason}") from error
        expected = mlx_dtype(mlx, self._dtype)
        if not isinstance(array, mlx.array) or tuple(array.shape) != self._shape or array.dtype != expected:
            found = f"{array.dtype}, {tuple(array.shape)}" if isinstance(array, mlx.array) else type(array).__name__
            raise MetalError(f"Cannot use {found} as the buffer's array: expected an mlx array of {expected} and shape {self._shape}")
        self.array, self.is_current, self.is_dirty = array, False, True

    def mark_dirty(self) -> None:
        """Marks the array as written. No effect before the first access."""
        if self.array is not None:
            self.is_current, self.is_dirty = False, True

    def mark_stale(self) -> None:
        """Marks the array as stale, because another copy was written."""
        self.is_current = self.is_dirty = False
