"""The half of a buffer that is MLX's."""

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
    """The type of MLX for a type of NumPy; for 64-bit floats that of 32-bit floats, as GPUs of Apple's have no others.

    Args:
        mlx: The module ``mlx.core``.
        dtype: The type of NumPy.

    Returns:
        The type of MLX.

    Raises:
        MetalError: It has none for that.
    """
    name = "float32" if dtype == np.float64 else dtype.name
    if name not in _TYPES or not dtype.isnative:
        raise MetalError(f"MLX has no type for elements of {dtype.str!r}; convert them to one of: {', '.join(sorted(_TYPES))}")
    return getattr(mlx, "bool_" if name == "bool" else name)


class MetalCopy:
    """An array of MLX's beside those of a buffer.

    Attributes:
        array: The array; None before anybody looked.
        is_current: Whether it equals the host's half.
        is_newer: Whether it was written to since.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._shape = shape
        self._dtype = dtype
        self.array: Any | None = None
        self.is_current = False
        self.is_newer = False

    @property
    def is_stale(self) -> bool:
        """Whether it has to be read from the host's half before anybody looks."""
        return not (self.is_current or self.is_newer)

    def read_from(self, host: NDArray[Any]) -> None:
        """Takes over the elements of the host's half.

        Raises:
            MetalError: There is no MLX, or it has no such type.
            BufferSyncError: They could not be copied.
        """
        try:
            mlx = import_mlx()
        except BackendNotAvailableError as error:
            raise MetalError(f"Metal not available: {error.reason}") from error
        dtype = mlx_dtype(mlx, self._dtype)
        try:
            self.array = mlx.array(host, dtype=dtype)
            # Now, while the host's half is what it is.
            mlx.eval(self.array)
        except (RuntimeError, ValueError, TypeError) as error:
            raise BufferSyncError("host->metal", error) from error
        self.is_current, self.is_newer = True, False

    def write_to(self, host: NDArray[Any]) -> None:
        """Copies the elements to the host's half.

        Raises:
            BufferSyncError: They could not be copied.
        """
        try:
            host[...] = np.asarray(self.array)
        except (RuntimeError, ValueError, TypeError) as error:
            self.is_newer = True
            raise BufferSyncError("metal->host", error) from error
        self.is_current, self.is_newer = True, False

    def replace(self, array: Any) -> None:
        """Makes another array this half.

        Raises:
            MetalError: It is none of MLX's, or has another shape or type.
        """
        try:
            mlx = import_mlx()
        except BackendNotAvailableError as error:
            raise MetalError(f"Metal not available: {error.reason}") from error
        wanted = mlx_dtype(mlx, self._dtype)
        if not isinstance(array, mlx.array) or tuple(array.shape) != self._shape or array.dtype != wanted:
            found = f"{array.dtype}, {tuple(array.shape)}" if isinstance(array, mlx.array) else type(array).__name__
            raise MetalError(f"Cannot take {found} as the buffer's array: give an mlx array of {wanted} and shape {self._shape}")
        self.array, self.is_current, self.is_newer = array, False, True

    def mark_dirty(self) -> None:
        """Notes that it was written to; nothing if nobody has looked at it yet."""
        if self.array is not None:
            self.is_current, self.is_newer = False, True

    def forget(self) -> None:
        """Notes that another half is newer."""
        self.is_current = self.is_newer = False
