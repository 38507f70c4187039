"""Devices of this machine and their properties.

Example:
    >>> from pydotcompute import Accelerator
    >>> accelerator = Accelerator()
    >>> accelerator.device_count >= 1
    True
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, ClassVar

from pydotcompute import _core
from pydotcompute._optional import cuda_devices, import_cupy, import_mlx, wait_for_device_work
from pydotcompute.exceptions import BackendNotAvailableError, CUDAError

__all__ = ["Accelerator", "DeviceProperties", "DeviceType", "cuda_available", "get_accelerator", "metal_available"]


class DeviceType(Enum):
    """Kind of a device."""

    CPU = auto()
    CUDA = auto()
    METAL = auto()


@dataclass(frozen=True)
class DeviceProperties:
    """Properties of a device.

    Attributes:
        device_id: Index of the device, from 0.
        device_type: Kind of the device.
        name: Name of the device, such as ``"NVIDIA H200"``.
        compute_capability: CUDA compute capability as (major, minor); ``None`` for other devices.
        total_memory: Size of the memory, in bytes; 0 if unknown.
        multiprocessor_count: Number of multiprocessors, or of cores that this process may use; 0 if unknown.
        max_threads_per_block: Maximum number of threads per block.
        max_block_dims: Maximum number of threads per block in each dimension.
        max_grid_dims: Maximum number of blocks per grid in each dimension.
        warp_size: Number of threads that execute in lockstep.
        is_available: Whether the device can be used.
    """

    device_id: int
    device_type: DeviceType
    name: str
    compute_capability: tuple[int, int] | None
    total_memory: int
    multiprocessor_count: int
    max_threads_per_block: int
    max_block_dims: tuple[int, int, int]
    max_grid_dims: tuple[int, int, int]
    warp_size: int
    is_available: bool

    @property
    def compute_capability_str(self) -> str:
        """Compute capability as text: ``"9.0"``; ``"N/A"`` if there is none."""
        return "N/A" if self.compute_capability is None else "{}.{}".format(*self.compute_capability)

    @property
    def total_memory_gb(self) -> float:
        """Size of the memory, in units of 2**30 bytes."""
        return self.total_memory / 2**30


def _properties(device_id: int, device: _core.Device) -> DeviceProperties:
    return DeviceProperties(
        device_id=device_id,
        device_type=DeviceType[device.backend.upper()],
        name=device.name,
        compute_capability=device.compute_capability,
        total_memory=device.total_memory or 0,
        multiprocessor_count=device.compute_units,
        max_threads_per_block=device.max_threads_per_block,
        max_block_dims=device.max_block_dims,
        max_grid_dims=device.max_grid_dims,
        warp_size=device.warp_size,
        is_available=True,
    )


def _metal_gpu() -> Any | None:
    """Returns MLX if it computes on an Apple GPU on this machine."""
    if sys.platform != "darwin":
        return None  # Importing MLX takes long and would find no Apple GPU.
    try:
        mlx = import_mlx()
    except BackendNotAvailableError:
        return None
    return mlx if mlx.metal.is_available() else None


def _metal_properties(device_id: int, mlx: Any) -> DeviceProperties:
    """Returns MLX's properties of the GPU. Limits are from Apple's Metal feature set tables, GPU families 4 and later."""
    info = mlx.device_info()
    return DeviceProperties(
        device_id=device_id,
        device_type=DeviceType.METAL,
        name=str(info.get("device_name", "Apple GPU")),
        compute_capability=None,
        total_memory=int(info.get("memory_size", 0)),
        multiprocessor_count=0,
        max_threads_per_block=1024,
        max_block_dims=(1024, 1024, 1024),
        max_grid_dims=(2**32 - 1, 2**32 - 1, 2**32 - 1),
        warp_size=32,
        is_available=True,
    )


class Accelerator:
    """The devices of this machine: its GPUs, or the CPU if there is none. A singleton.

    Devices are discovered once, when the singleton is created. None is opened for that.
    """

    _instance: ClassVar[Accelerator | None] = None
    _initialized: ClassVar[bool] = False
    _lock: ClassVar[threading.RLock] = threading.RLock()

    def __new__(cls) -> Accelerator:
        """Returns the singleton."""
        with cls._lock:
            if cls._instance is None:
                cls._instance = super().__new__(cls)
                cls._initialized = False
            return cls._instance

    def __init__(self) -> None:
        with self._lock:
            if Accelerator._initialized:
                return
            self._cpu = _core.cpu_device()
            self._handles: list[_core.Device] = []
            self._devices: list[DeviceProperties] = []
            self._current = 0
            self._cuda_missing = ""
            self._discover()
            Accelerator._initialized = True

    def _discover(self) -> None:
        try:
            self._handles.extend(cuda_devices())
        except BackendNotAvailableError as error:
            self._cuda_missing = error.reason
        except CUDAError as error:
            self._cuda_missing = str(error)
            warnings.warn(f"GPUs are not used, because their discovery failed: {error}", RuntimeWarning, stacklevel=4)
        self._devices.extend(_properties(number, device) for number, device in enumerate(self._handles))
        mlx = _metal_gpu()
        if mlx is not None:
            # Apple GPUs share the host's memory, so buffers use the host's memory for them.
            self._devices.append(_metal_properties(len(self._devices), mlx))
            self._handles.append(self._cpu)
        if not self._devices:
            self._handles.append(self._cpu)
            self._devices.append(_properties(0, self._cpu))

    @property
    def cuda_available(self) -> bool:
        """Whether there is a CUDA GPU."""
        return any(device.device_type is DeviceType.CUDA for device in self._devices)

    @property
    def cuda_missing(self) -> str:
        """Why CUDA is not available, and what to do about it; empty if it is available."""
        return self._cuda_missing

    @property
    def metal_available(self) -> bool:
        """Whether there is an Apple GPU, and MLX to use it.

        Without such a GPU, as on Linux, MLX computes on the CPU: ``MetalBackend`` and ``UnifiedBuffer.metal`` also work then.
        """
        return any(device.device_type is DeviceType.METAL for device in self._devices)

    @property
    def device_count(self) -> int:
        """Number of devices; at least one."""
        return len(self._devices)

    @property
    def current_device(self) -> DeviceProperties:
        """The device that new buffers use."""
        return self._devices[self._current]

    @property
    def devices(self) -> list[DeviceProperties]:
        """All devices, by index. The list is a copy."""
        return self._devices.copy()

    def get_device(self, device_id: int) -> DeviceProperties:
        """Returns the properties of a device.

        Args:
            device_id: Index of the device, from 0.

        Returns:
            Its properties.

        Raises:
            ValueError: There is no such device.
        """
        if not 0 <= device_id < len(self._devices):
            last = len(self._devices) - 1
            raise ValueError(f"There is no device {device_id} on this machine; choose one from 0 to {last}, of Accelerator().devices")
        return self._devices[device_id]

    def set_device(self, device_id: int) -> None:
        """Selects the device that new buffers use. If CuPy is installed, this also makes the device current for CuPy, in this thread.

        Args:
            device_id: Index of the device, from 0.

        Raises:
            ValueError: There is no such device.
        """
        device = self.get_device(device_id)
        self._current = device_id
        if device.device_type is DeviceType.CUDA:
            try:
                cupy = import_cupy()
            except BackendNotAvailableError:
                return  # Buffers do not need CuPy.
            cupy.cuda.Device(self._handles[device_id].index).use()

    def synchronize(self) -> None:
        """Waits for this thread's work on the current device: synchronizes its current stream, not the whole device."""
        kind = self.current_device.device_type
        if kind is DeviceType.CUDA:
            wait_for_device_work()
        elif kind is DeviceType.METAL:
            import_mlx().synchronize()

    def get_memory_info(self) -> dict[str, int]:
        """Returns the memory of the current device.

        Returns:
            Bytes: ``free``, ``total`` and ``used``; on Metal also ``cache_memory`` and ``peak_memory`` of MLX.

        Raises:
            CUDAError: The driver call failed.
        """
        kind = self.current_device.device_type
        if kind is DeviceType.CUDA:
            free, total = self._handles[self._current].memory_info()
            return {"free": free, "total": total, "used": total - free}
        if kind is DeviceType.METAL:
            mlx, total = import_mlx(), self.current_device.total_memory
            used = mlx.get_active_memory()
            mlx_memory = {"cache_memory": mlx.get_cache_memory(), "peak_memory": mlx.get_peak_memory()}
            return {"free": max(total - used, 0), "total": total, "used": used, **mlx_memory}
        total = self.current_device.total_memory
        free = min(_host_memory_free(), total)
        return {"free": free, "total": total, "used": total - free}

    def _handle(self) -> _core.Device:
        """Returns the current device, for buffers and pools."""
        return self._handles[self._current]

    def __repr__(self) -> str:
        return (
            f"Accelerator(devices={self.device_count}, cuda_available={self.cuda_available}, "
            f"metal_available={self.metal_available}, current_device={self.current_device.name})"
        )


def _host_memory_free() -> int:
    """Returns the bytes of host memory available without swapping; on systems that do not report this, the unused bytes."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0


def get_accelerator() -> Accelerator:
    """Returns the devices of this machine.

    Returns:
        The :class:`Accelerator` singleton.
    """
    return Accelerator()


def cuda_available() -> bool:
    """Whether there is a CUDA GPU."""
    return get_accelerator().cuda_available


def metal_available() -> bool:
    """Whether there is an Apple GPU, and MLX to use it."""
    return get_accelerator().metal_available
