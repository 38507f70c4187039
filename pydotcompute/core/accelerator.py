"""The devices of this machine, and what they can do.

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
    """The kind of a device."""

    CPU = auto()
    CUDA = auto()
    METAL = auto()


@dataclass(frozen=True)
class DeviceProperties:
    """What a device is and can do.

    Attributes:
        device_id: Its number, from 0.
        device_type: Its kind.
        name: Its name, such as ``"NVIDIA H200"``.
        compute_capability: What code it executes, as (major, minor); None where there is no number for that.
        total_memory: Bytes of its memory; 0 if it does not tell.
        multiprocessor_count: Units that work independently of each other: multiprocessors, or cores that this process may use; 0 if it
            does not tell.
        max_threads_per_block: The most threads of a block.
        max_block_dims: The most threads of a block in each dimension.
        max_grid_dims: The most blocks of a grid in each dimension.
        warp_size: How many threads go in step.
        is_available: Whether it can be used.
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
        """The compute capability as text: ``"9.0"``; ``"N/A"`` where there is none."""
        return "N/A" if self.compute_capability is None else "{}.{}".format(*self.compute_capability)

    @property
    def total_memory_gb(self) -> float:
        """Its memory in units of 2**30 bytes."""
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
    """MLX, if it computes on a GPU of Apple's here."""
    if sys.platform != "darwin":
        return None  # To import it would take long, and find none.
    try:
        mlx = import_mlx()
    except BackendNotAvailableError:
        return None
    return mlx if mlx.metal.is_available() else None


def _metal_properties(device_id: int, mlx: Any) -> DeviceProperties:
    """What MLX tells of the GPU; limits are those of the Metal feature set tables for Apple's GPUs (families 4 and later)."""
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
    """The devices of this machine: its GPUs, or the processor where there is none. There is one object of this class.

    Devices are looked for once, when it is made; none is opened for that.
    """

    _instance: ClassVar[Accelerator | None] = None
    _initialized: ClassVar[bool] = False
    _lock: ClassVar[threading.RLock] = threading.RLock()

    def __new__(cls) -> Accelerator:
        """The one object."""
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
            warnings.warn(f"GPUs are not used, since asking for them failed: {error}", RuntimeWarning, stacklevel=4)
        self._devices.extend(_properties(number, device) for number, device in enumerate(self._handles))
        mlx = _metal_gpu()
        if mlx is not None:
            # Its memory is the host's, so that buffers find it there.
            self._devices.append(_metal_properties(len(self._devices), mlx))
            self._handles.append(self._cpu)
        if not self._devices:
            self._handles.append(self._cpu)
            self._devices.append(_properties(0, self._cpu))

    @property
    def cuda_available(self) -> bool:
        """Whether there is a GPU with CUDA."""
        return any(device.device_type is DeviceType.CUDA for device in self._devices)

    @property
    def cuda_missing(self) -> str:
        """Why there is no CUDA and what to do about it; empty if there is."""
        return self._cuda_missing

    @property
    def metal_available(self) -> bool:
        """Whether there is a GPU of Apple's, and MLX to use it.

        MLX without such a GPU, as on Linux, computes on the processor: ``MetalBackend`` and ``UnifiedBuffer.metal`` work with that too.
        """
        return any(device.device_type is DeviceType.METAL for device in self._devices)

    @property
    def device_count(self) -> int:
        """How many devices there are; at least one."""
        return len(self._devices)

    @property
    def current_device(self) -> DeviceProperties:
        """The device that new buffers are for."""
        return self._devices[self._current]

    @property
    def devices(self) -> list[DeviceProperties]:
        """All devices, by their numbers. The list is a copy."""
        return self._devices.copy()

    def get_device(self, device_id: int) -> DeviceProperties:
        """What a device is and can do.

        Args:
            device_id: Its number, from 0.

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
        """Chooses the device that new buffers are for; CuPy, if it is there, uses it from now on too, in this thread.

        Args:
            device_id: Its number, from 0.

        Raises:
            ValueError: There is no such device.
        """
        device = self.get_device(device_id)
        self._current = device_id
        if device.device_type is DeviceType.CUDA:
            try:
                cupy = import_cupy()
            except BackendNotAvailableError:
                return  # Buffers do without it.
            cupy.cuda.Device(self._handles[device_id].index).use()

    def synchronize(self) -> None:
        """Waits for what this thread has started on the current device: on its current stream, not on the whole device."""
        kind = self.current_device.device_type
        if kind is DeviceType.CUDA:
            wait_for_device_work()
        elif kind is DeviceType.METAL:
            import_mlx().synchronize()

    def get_memory_info(self) -> dict[str, int]:
        """The memory of the current device.

        Returns:
            Bytes: ``free``, ``total`` and ``used``; of Metal also ``cache_memory`` and ``peak_memory`` of MLX.

        Raises:
            CUDAError: The driver did not tell.
        """
        kind = self.current_device.device_type
        if kind is DeviceType.CUDA:
            free, total = self._handles[self._current].memory_info()
            return {"free": free, "total": total, "used": total - free}
        if kind is DeviceType.METAL:
            mlx, total = import_mlx(), self.current_device.total_memory
            used = mlx.get_active_memory()
            kept = {"cache_memory": mlx.get_cache_memory(), "peak_memory": mlx.get_peak_memory()}
            return {"free": max(total - used, 0), "total": total, "used": used, **kept}
        total = self.current_device.total_memory
        free = min(_host_memory_free(), total)
        return {"free": free, "total": total, "used": total - free}

    def _handle(self) -> _core.Device:
        """The current device, for buffers and pools."""
        return self._handles[self._current]

    def __repr__(self) -> str:
        return (
            f"Accelerator(devices={self.device_count}, cuda_available={self.cuda_available}, "
            f"metal_available={self.metal_available}, current_device={self.current_device.name})"
        )


def _host_memory_free() -> int:
    """Bytes of the host's memory that can be had without swapping; where only that is told, those that nobody uses at all."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0


def get_accelerator() -> Accelerator:
    """The devices of this machine.

    Returns:
        The one :class:`Accelerator`.
    """
    return Accelerator()


def cuda_available() -> bool:
    """Whether there is a GPU with CUDA."""
    return get_accelerator().cuda_available


def metal_available() -> bool:
    """Whether there is a GPU of Apple's, and MLX to use it."""
    return get_accelerator().metal_available
