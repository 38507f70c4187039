"""The devices of the machine."""

from pydotcompute.core.accelerator import (
    Accelerator,
    DeviceProperties,
    DeviceType,
    cuda_available,
    get_accelerator,
    metal_available,
)


def describe(device: DeviceProperties) -> str:
    number: int = device.device_id
    kind: DeviceType = device.device_type
    name: str = device.name
    capability: tuple[int, int] | None = device.compute_capability
    sizes: tuple[int, int, int, int] = (
        device.total_memory,
        device.multiprocessor_count,
        device.max_threads_per_block,
        device.warp_size,
    )
    dims: tuple[tuple[int, int, int], tuple[int, int, int]] = (device.max_block_dims, device.max_grid_dims)
    available: bool = device.is_available
    text: str = device.compute_capability_str
    gigabytes: float = device.total_memory_gb
    return f"{number} {kind} {name} {capability} {sizes} {dims} {available} {text} {gigabytes}"


def use() -> None:
    accelerator: Accelerator = get_accelerator()
    availability: tuple[bool, bool, bool, bool] = (
        accelerator.cuda_available,
        accelerator.metal_available,
        cuda_available(),
        metal_available(),
    )
    count: int = accelerator.device_count
    current: DeviceProperties = accelerator.current_device
    devices: list[DeviceProperties] = accelerator.devices
    first: DeviceProperties = accelerator.get_device(0)
    accelerator.set_device(0)
    accelerator.synchronize()
    memory: dict[str, int] = Accelerator().get_memory_info()
    kinds = [DeviceType.CPU, DeviceType.CUDA, DeviceType.METAL]
    own = DeviceProperties(
        device_id=0,
        device_type=DeviceType.CPU,
        name="own",
        compute_capability=None,
        total_memory=1,
        multiprocessor_count=1,
        max_threads_per_block=1,
        max_block_dims=(1, 1, 1),
        max_grid_dims=(1, 1, 1),
        warp_size=1,
        is_available=True,
    )
    print(availability, count, describe(current), devices, first, memory, kinds, own)
