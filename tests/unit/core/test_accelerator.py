"""The devices of this machine."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pydotcompute import _core
from pydotcompute.core.accelerator import Accelerator, DeviceProperties, DeviceType, cuda_available, get_accelerator, metal_available
from pydotcompute.exceptions import BackendNotAvailableError, CUDAError


@pytest.fixture(autouse=True)
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Accelerator]:
    monkeypatch.setattr(Accelerator, "_instance", None)
    monkeypatch.setattr(Accelerator, "_initialized", False)
    yield Accelerator()


def test_it_is_a_singleton(accelerator: Accelerator) -> None:
    assert Accelerator() is accelerator is get_accelerator()


def test_devices_of_the_accelerator(accelerator: Accelerator) -> None:
    devices = accelerator.devices
    assert len(devices) == accelerator.device_count >= 1
    assert [device.device_id for device in devices] == list(range(len(devices)))
    assert all(device.is_available and device.name for device in devices)
    devices.clear()
    assert accelerator.device_count == len(accelerator.devices) >= 1
    kinds = {device.device_type for device in accelerator.devices}
    assert (DeviceType.CUDA in kinds) == accelerator.cuda_available == cuda_available()
    assert (DeviceType.METAL in kinds) == accelerator.metal_available == metal_available()
    assert bool(accelerator.cuda_missing) is not accelerator.cuda_available


def test_the_cpu_device() -> None:
    cpu = _core.cpu_device()
    assert (cpu.backend, cpu.index, cpu.warp_size, cpu.compute_capability) == ("cpu", 0, 1, None)
    assert 1 <= cpu.compute_units <= (os.cpu_count() or 1)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert cpu.total_memory == pages


def test_the_cpu_is_the_device_without_a_gpu(monkeypatch: pytest.MonkeyPatch, accelerator: Accelerator) -> None:
    def no_devices() -> list[_core.Device]:
        raise BackendNotAvailableError("CUDA", "there is no driver; install one")

    if accelerator.metal_available:
        pytest.skip("this machine has an Apple GPU")
    monkeypatch.setattr(_core, "cuda_devices", no_devices)
    monkeypatch.setattr(Accelerator, "_instance", None)
    found = Accelerator()
    assert found is not accelerator and not found.cuda_available
    assert [device.device_type for device in found.devices] == [DeviceType.CPU]
    assert found.cuda_missing == "there is no driver; install one"
    found.synchronize()
    memory = found.get_memory_info()
    assert 0 < memory["free"] <= memory["total"] == found.current_device.total_memory
    assert memory["used"] == memory["total"] - memory["free"]


def test_a_driver_error_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[_core.Device]:
        raise CUDAError("code 999: unknown error")

    monkeypatch.setattr(_core, "cuda_devices", broken)
    monkeypatch.setattr(Accelerator, "_instance", None)
    with pytest.warns(RuntimeWarning, match="code 999"):
        found = Accelerator()
    assert found.device_count >= 1 and "999" in found.cuda_missing


def test_an_unknown_device_raises(accelerator: Accelerator) -> None:
    accelerator.set_device(0)
    assert accelerator.current_device is accelerator.get_device(0)
    for device_id in (-1, 1000):
        for call in (accelerator.get_device, accelerator.set_device):
            with pytest.raises(ValueError, match=f"no device {device_id}"):
                call(device_id)
    assert accelerator.current_device.device_id == 0


def test_properties() -> None:
    gpu = DeviceProperties(0, DeviceType.CUDA, "GPU", (9, 0), 80 * 2**30, 132, 1024, (1024, 1024, 64), (2**31 - 1, 65535, 65535), 32, True)
    assert (gpu.compute_capability_str, gpu.total_memory_gb) == ("9.0", 80.0)
    cpu = DeviceProperties(0, DeviceType.CPU, "CPU", None, 0, 1, 1, (1, 1, 1), (1, 1, 1), 1, True)
    assert (cpu.compute_capability_str, cpu.total_memory_gb) == ("N/A", 0.0)
    with pytest.raises(AttributeError):
        cpu.name = "other"  # type: ignore[misc]


def test_optional_libraries_are_imported_only_when_used() -> None:
    text = """
import sys
import pydotcompute.backends, pydotcompute.core
import pydotcompute.ring_kernels.array_message
from pydotcompute.core.unified_buffer import UnifiedBuffer
UnifiedBuffer(3).fill(1).host
heavy = {"numba", "cupy", "torch", "jax"} | ({"mlx"} if sys.platform != "darwin" else set())
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", text], check=True)


def test_repr(accelerator: Accelerator) -> None:
    assert repr(accelerator).startswith(f"Accelerator(devices={accelerator.device_count}, cuda_available=")
