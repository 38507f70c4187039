"""Telemetry."""

from pydotcompute.ring_kernels.telemetry import GPUInfo, GPUMonitor, RingKernelTelemetry, TelemetryCollector


def use() -> None:
    telemetry = RingKernelTelemetry(
        kernel_id="k",
        messages_processed=0,
        messages_dropped=0,
        queue_depth=0,
        total_latency_ns=0,
        max_latency_ns=0,
        min_latency_ns=0,
        error_count=0,
        last_error=None,
        uptime_seconds=0.0,
    )
    telemetry.record_message(1_000)
    telemetry.record_drop()
    telemetry.record_error("broken")
    counts: tuple[int, int, int, int] = (
        telemetry.messages_processed,
        telemetry.messages_dropped,
        telemetry.queue_depth,
        telemetry.error_count,
    )
    nanoseconds: tuple[int, int, int] = (telemetry.total_latency_ns, telemetry.max_latency_ns, telemetry.min_latency_ns)
    floats: tuple[float, float, float, float] = (
        telemetry.avg_latency_ns,
        telemetry.avg_latency_ms,
        telemetry.throughput,
        telemetry.uptime_seconds,
    )
    texts: tuple[str, str | None] = (telemetry.kernel_id, telemetry.last_error)
    as_dict: dict[str, object] = telemetry.to_dict()
    telemetry.reset()
    print(counts, nanoseconds, floats, texts, as_dict)


def collect() -> None:
    collector = TelemetryCollector()
    own: RingKernelTelemetry = collector.register_kernel("k")
    found: RingKernelTelemetry | None = collector.get_kernel_telemetry("k")
    everything: dict[str, RingKernelTelemetry] = collector.get_all_telemetry()
    summary: dict[str, object] = collector.get_summary()
    collector.reset_all()
    collector.unregister_kernel("k")
    print(own, found, everything, summary)


def describe(info: GPUInfo) -> str:
    names: tuple[str, str] = (info.name, info.uuid)
    memory: tuple[int, int, int] = (info.memory_total, info.memory_used, info.memory_free)
    shares: tuple[float, float, float] = (info.utilization_gpu, info.utilization_memory, info.memory_utilization)
    body: tuple[float, float, float] = (info.temperature, info.power_usage, info.power_limit)
    return f"{info.index} {names} {memory} {shares} {body}"


def watch() -> None:
    monitor = GPUMonitor()
    available: bool = monitor.is_available
    count: int = monitor.device_count
    first: GPUInfo = monitor.get_gpu_info(device_index=0)
    gpus: list[GPUInfo] = monitor.get_all_gpu_info()
    busy: float = monitor.get_utilization(0)
    memory: dict[str, int] = monitor.get_memory_info(0)
    monitor.shutdown()
    own = GPUInfo(
        index=0,
        name="GPU",
        uuid="0",
        memory_total=1,
        memory_used=0,
        memory_free=1,
        utilization_gpu=0.0,
        utilization_memory=0.0,
        temperature=40.0,
        power_usage=60.0,
        power_limit=700.0,
    )
    print(available, count, describe(first), gpus, busy, memory, own)
