"""Telemetry: counters of ring kernels, and the state of NVIDIA GPUs."""

from __future__ import annotations

import functools
import importlib
import threading
import time
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from pydotcompute import _core
from pydotcompute.exceptions import BackendNotAvailableError
from pydotcompute.ring_kernels import latency as _latencies
from pydotcompute.ring_kernels.latency import LatencySummary

__all__ = ["GPUInfo", "GPUMonitor", "RingKernelTelemetry", "TelemetryCollector"]


@dataclass(init=False, repr=False)
class RingKernelTelemetry(_core.RingKernelTelemetry):
    """Counters of one ring kernel.

    The runtime updates them; they can be read at any time.

    Attributes:
        kernel_id: Name of the ring kernel.
        messages_processed: Messages handled.
        messages_dropped: Messages that will never be handled.
        queue_depth: Messages in the input queue.
        total_latency_ns: Sum of all latencies. The latency of a message is the time from its acceptance to the kernel's next receive.
        max_latency_ns: Highest latency.
        min_latency_ns: Lowest latency; 0 before the first message.
        error_count: Number of exceptions.
        last_error: Text of the latest exception.
        uptime_seconds: Time since activation.
        never_awaited: Sends, receives and asks that did nothing because they were never awaited.

    Example:
        >>> telemetry = RingKernelTelemetry("sensor")
        >>> for latency_ns in range(1_000, 101_000, 1_000):
        ...     telemetry.record_message(latency_ns)
        >>> telemetry.avg_latency_ns, telemetry.max_latency_ns, telemetry.p50_latency_ns, telemetry.p90_latency_ns
        (50500.0, 100000, 50175, 90111)
    """

    if TYPE_CHECKING:
        kernel_id: str = ""
        messages_processed: int = 0
        messages_dropped: int = 0
        queue_depth: int = 0
        total_latency_ns: int = 0
        max_latency_ns: int = 0
        min_latency_ns: int = 0
        error_count: int = 0
        last_error: str | None = None
        uptime_seconds: float = 0.0
        never_awaited: int = 0
    else:
        # The base class implements the others; the annotations are for `dataclasses.fields`.
        kernel_id: str
        messages_processed: int
        messages_dropped: int
        queue_depth: int
        total_latency_ns: int
        max_latency_ns: int
        min_latency_ns: int
        error_count: int
        last_error: str | None
        uptime_seconds: float
        never_awaited: int

    def __init__(
        self,
        kernel_id: str = "",
        messages_processed: int = 0,
        messages_dropped: int = 0,
        queue_depth: int = 0,
        total_latency_ns: int = 0,
        max_latency_ns: int = 0,
        min_latency_ns: int = 0,
        error_count: int = 0,
        last_error: str | None = None,
        uptime_seconds: float = 0.0,
        never_awaited: int = 0,
    ) -> None:
        self._queue: _core.Mailbox | None = None
        self._queue_depth = queue_depth
        self._uptime = uptime_seconds
        self.kernel_id = kernel_id
        self.messages_processed = messages_processed
        self.messages_dropped = messages_dropped
        self.total_latency_ns = total_latency_ns
        self.max_latency_ns = max_latency_ns
        self.min_latency_ns = min_latency_ns
        self.error_count = error_count
        self.last_error = last_error
        self.never_awaited = never_awaited

    if not TYPE_CHECKING:

        @property
        def queue_depth(self) -> int:
            """Messages in the input queue."""
            return self._queue_depth if self._queue is None else self._queue.qsize

        @queue_depth.setter
        def queue_depth(self, value: int) -> None:
            self._queue_depth = value

        @property
        def uptime_seconds(self) -> float:
            """Time since activation."""
            return self._uptime + self.seconds_since_start()

        @uptime_seconds.setter
        def uptime_seconds(self, value: float) -> None:
            self._uptime = value - self.seconds_since_start()

    @property
    def avg_latency_ns(self) -> float:
        """Mean latency in nanoseconds; 0 before the first message."""
        return self.total_latency_ns / self.messages_processed if self.messages_processed else 0.0

    @property
    def avg_latency_ms(self) -> float:
        """Mean latency in milliseconds."""
        return self.avg_latency_ns / 1e6

    @property
    def p50_latency_ns(self) -> int:
        """Median of the latencies in nanoseconds, with two significant digits as all percentiles; 0 before the first message."""
        return self.latency.p50_ns

    @property
    def p90_latency_ns(self) -> int:
        """90th percentile of the latencies in nanoseconds."""
        return self.latency.p90_ns

    @property
    def p99_latency_ns(self) -> int:
        """99th percentile of the latencies in nanoseconds."""
        return self.latency.p99_ns

    @property
    def latency(self) -> LatencySummary:
        """Latencies of messages, each from its acceptance to the kernel's next receive: the time in the queue and of handling."""
        return _latencies.summarize(self, _latencies.TOTAL)

    @property
    def queue_time(self) -> LatencySummary:
        """Times of messages in the queue, from acceptance to receive."""
        return _latencies.summarize(self, _latencies.QUEUE)

    @property
    def handle_time(self) -> LatencySummary:
        """Times of handling, from the receive of a message to the next receive."""
        return _latencies.summarize(self, _latencies.HANDLE)

    @property
    def ask_time(self) -> LatencySummary:
        """Times from an ask to its reply, of asks that got one."""
        return _latencies.summarize(self, _latencies.ASK)

    @property
    def throughput(self) -> float:
        """Messages per second of uptime."""
        uptime = self.uptime_seconds
        return self.messages_processed / uptime if uptime else 0.0

    def reset(self) -> None:
        """Resets all counters and the uptime; keeps `kernel_id`."""
        self.messages_processed = self.messages_dropped = self.queue_depth = 0
        self.total_latency_ns = self.max_latency_ns = self.min_latency_ns = 0
        self.error_count = self.never_awaited = 0
        self.last_error = None
        self.uptime_seconds = 0.0
        self._clear_latencies()

    def to_dict(self) -> dict[str, object]:
        """Returns all counters by name, with throughput, the mean and percentiles of latencies, and their three distributions."""
        return {
            "kernel_id": self.kernel_id,
            "messages_processed": self.messages_processed,
            "messages_dropped": self.messages_dropped,
            "queue_depth": self.queue_depth,
            "avg_latency_ms": self.avg_latency_ms,
            "max_latency_ns": self.max_latency_ns,
            "min_latency_ns": self.min_latency_ns,
            **self._percentiles(),
            "throughput": self.throughput,
            "error_count": self.error_count,
            "last_error": self.last_error,
            "uptime_seconds": self.uptime_seconds,
            "never_awaited": self.never_awaited,
            **self._distributions(),
        }

    def _percentiles(self) -> dict[str, object]:
        of_all = self.latency
        return {"p50_latency_ns": of_all.p50_ns, "p90_latency_ns": of_all.p90_ns, "p99_latency_ns": of_all.p99_ns}

    def _distributions(self) -> dict[str, object]:
        return {name: asdict(getattr(self, name)) for name in ("queue_time", "handle_time", "ask_time")}

    def __reduce__(self) -> tuple[Any, ...]:
        # A copied or pickled object is a snapshot; its counters no longer change.
        return type(self), tuple(getattr(self, f.name) for f in fields(self)), _latencies.counts_of(self)

    def __setstate__(self, counts: list[_latencies.Counts]) -> None:
        _latencies.add_counts(self, counts)

    def _watch(self, queue: _core.Mailbox, output: _core.Mailbox) -> None:
        """Counts the messages of a ring kernel's input queue, and the replies that go through its output queue, from now on."""
        self._queue = queue
        queue._set_counters(self)
        output._set_ask_counters(self)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.to_dict().items() if not isinstance(value, dict))
        return f"RingKernelTelemetry({values})"


@dataclass
class GPUInfo:
    """State of a GPU.

    Attributes:
        index: Device index.
        name: Model name.
        uuid: Unique device id.
        memory_total: Size of the memory, in bytes.
        memory_used: Memory in use, in bytes.
        memory_free: Free memory, in bytes.
        utilization_gpu: Fraction of time in which a kernel ran, 0 to 1.
        utilization_memory: Fraction of time in which memory was read or written, 0 to 1.
        temperature: In degrees Celsius.
        power_usage: In watts.
        power_limit: In watts.
    """

    index: int
    name: str
    uuid: str
    memory_total: int
    memory_used: int
    memory_free: int
    utilization_gpu: float
    utilization_memory: float
    temperature: float
    power_usage: float
    power_limit: float

    @property
    def memory_utilization(self) -> float:
        """Fraction of memory in use, 0 to 1."""
        return self.memory_used / self.memory_total if self.memory_total else 0.0


class GPUMonitor:
    """Reads the state of GPUs through NVIDIA's management library (package ``nvidia-ml-py``).

    Without the library or a GPU, ``is_available`` is false, ``unavailable_reason`` says why, and the state is all zeros and ``"N/A"``.

    Example:
        >>> monitor = GPUMonitor()
        >>> infos = monitor.get_all_gpu_info()  # empty without a GPU
        >>> monitor.shutdown()
    """

    def __init__(self) -> None:
        self._nvml: Any = None
        self._device_count = 0
        self.unavailable_reason = ""
        try:
            nvml = importlib.import_module("pynvml")
            nvml.nvmlInit()
            self._nvml = nvml
            self._device_count = nvml.nvmlDeviceGetCount()
        except ImportError:
            self.unavailable_reason = "the package nvidia-ml-py is not installed; pip install 'pydotcompute[cuda]'"
        except Exception as error:
            self.unavailable_reason = f"initializing NVIDIA's management library failed: {error}"

    @property
    def is_available(self) -> bool:
        """Whether there is a GPU to monitor."""
        return self._nvml is not None and self._device_count > 0

    @property
    def device_count(self) -> int:
        """Number of GPUs."""
        return self._device_count

    @property
    def _nvml_available(self) -> bool:
        return self._nvml is not None  # The tests of 0.2 read this name.

    def _device(self, device_index: int) -> Any:
        if not 0 <= device_index < self._device_count:
            raise BackendNotAvailableError("nvml", f"there is no GPU {device_index}; this machine has {self._device_count}")
        return self._nvml.nvmlDeviceGetHandleByIndex(device_index)

    def get_gpu_info(self, device_index: int = 0) -> GPUInfo:
        """Returns the state of one GPU.

        Args:
            device_index: Device index, from 0.

        Returns:
            The current state. Zeros and ``"N/A"`` if the management library is unavailable, or there is no GPU.

        Raises:
            BackendNotAvailableError: There are GPUs, and this one is not among them.
        """
        if not self.is_available:
            return GPUInfo(device_index, "N/A", "N/A", 0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0)
        device, nvml = self._device(device_index), self._nvml
        memory = nvml.nvmlDeviceGetMemoryInfo(device)
        rates = nvml.nvmlDeviceGetUtilizationRates(device)
        name, uuid = nvml.nvmlDeviceGetName(device), nvml.nvmlDeviceGetUUID(device)
        return GPUInfo(
            index=device_index,
            name=name.decode() if isinstance(name, bytes) else name,
            uuid=uuid.decode() if isinstance(uuid, bytes) else uuid,
            memory_total=memory.total,
            memory_used=memory.used,
            memory_free=memory.free,
            utilization_gpu=rates.gpu / 100,
            utilization_memory=rates.memory / 100,
            temperature=float(nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU)),
            power_usage=nvml.nvmlDeviceGetPowerUsage(device) / 1000,
            power_limit=nvml.nvmlDeviceGetEnforcedPowerLimit(device) / 1000,
        )

    def get_all_gpu_info(self) -> list[GPUInfo]:
        """Returns the state of all GPUs; an empty list if there are none."""
        return [self.get_gpu_info(index) for index in range(self._device_count)]

    def get_utilization(self, device_index: int = 0) -> float:
        """Returns the fraction of time in which a kernel ran on a GPU, 0 to 1; 0 if there is no GPU.

        Args:
            device_index: Device index, from 0.

        Raises:
            BackendNotAvailableError: There are GPUs, and this one is not among them.
        """
        if not self.is_available:
            return 0.0
        return float(self._nvml.nvmlDeviceGetUtilizationRates(self._device(device_index)).gpu / 100)

    def get_memory_info(self, device_index: int = 0) -> dict[str, int]:
        """Returns a GPU's memory in bytes: ``total``, ``used`` and ``free``; zeros if there is no GPU.

        Args:
            device_index: Device index, from 0.

        Raises:
            BackendNotAvailableError: There are GPUs, and this one is not among them.
        """
        if not self.is_available:
            return {"total": 0, "used": 0, "free": 0}
        memory = self._nvml.nvmlDeviceGetMemoryInfo(self._device(device_index))
        return {"total": memory.total, "used": memory.used, "free": memory.free}

    def shutdown(self) -> None:
        """Releases the management library. Further calls have no effect."""
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
        self._nvml, self._device_count = None, 0

    def __repr__(self) -> str:
        return f"GPUMonitor(available={self.is_available}, devices={self._device_count})"


@dataclass
class TelemetryCollector:
    """Telemetry of all ring kernels of a runtime.

    Totals never fall: they include the ring kernels that were removed.

    Example:
        >>> collector = TelemetryCollector()
        >>> collector.register_kernel("sensor").record_message(latency_ns=500)
        >>> collector.unregister_kernel("sensor")
        >>> summary = collector.get_summary()
        >>> summary["kernel_count"], summary["total_messages_processed"]
        (0, 1)
    """

    _kernel_telemetry: dict[str, RingKernelTelemetry] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    # Totals of the ring kernels that were removed.
    _removed: RingKernelTelemetry = field(default_factory=RingKernelTelemetry, repr=False, compare=False)
    _created: float = field(default_factory=time.monotonic, repr=False, compare=False)

    @functools.cached_property
    def _gpu_monitor(self) -> GPUMonitor:
        """Created at the first summary: initializing NVIDIA's library takes milliseconds, and most runtimes never summarize."""
        return GPUMonitor()

    def register_kernel(self, kernel_id: str) -> RingKernelTelemetry:
        """Starts to collect for a ring kernel, and starts its uptime. Returns the existing telemetry if the name is registered already.

        Args:
            kernel_id: Name of the ring kernel.
        """
        with self._lock:
            telemetry = self._kernel_telemetry.get(kernel_id)
            if telemetry is None:
                telemetry = self._kernel_telemetry[kernel_id] = RingKernelTelemetry(kernel_id=kernel_id)
                telemetry.start_clock()
        return telemetry

    def unregister_kernel(self, kernel_id: str) -> None:
        """Removes a ring kernel; totals keep its counts. Unknown names are ignored.

        Args:
            kernel_id: Name of the ring kernel.
        """
        with self._lock:
            telemetry = self._kernel_telemetry.pop(kernel_id, None)
            if telemetry is not None:
                self._removed.messages_processed += telemetry.messages_processed
                self._removed.messages_dropped += telemetry.messages_dropped
                self._removed.total_latency_ns += telemetry.total_latency_ns
                self._removed.error_count += telemetry.error_count
                _latencies.add_counts(self._removed, _latencies.counts_of(telemetry))

    def get_kernel_telemetry(self, kernel_id: str) -> RingKernelTelemetry | None:
        """Returns the telemetry of one ring kernel, or ``None``.

        Args:
            kernel_id: Name of the ring kernel.
        """
        return self._kernel_telemetry.get(kernel_id)

    def get_all_telemetry(self) -> dict[str, RingKernelTelemetry]:
        """Returns the telemetry of all ring kernels, by name."""
        with self._lock:
            return dict(self._kernel_telemetry)

    def get_summary(self) -> dict[str, object]:
        """Returns totals over all ring kernels, removed ones included.

        ``kernel_count`` and ``total_throughput`` are of the present ring kernels, ``uptime_seconds`` of the collector, and
        ``gpu_utilization`` of the first GPU, 0 to 1. Percentiles of latencies are those of all messages together.
        """
        with self._lock:
            kernels = list(self._kernel_telemetry.values())
            counted = [*kernels, self._removed]
            processed = sum(k.messages_processed for k in counted)
            total_latency = sum(k.total_latency_ns for k in counted)
            dropped = sum(k.messages_dropped for k in counted)
            errors = sum(k.error_count for k in counted)
            together = RingKernelTelemetry()
            for kernel in counted:
                _latencies.add_counts(together, _latencies.counts_of(kernel))
        return {
            "kernel_count": len(kernels),
            "total_messages_processed": processed,
            "total_messages_dropped": dropped,
            "total_errors": errors,
            "avg_latency_ms": total_latency / processed / 1e6 if processed else 0.0,
            **together._percentiles(),
            **together._distributions(),
            "total_throughput": sum(k.throughput for k in kernels),
            "uptime_seconds": time.monotonic() - self._created,
            "gpu_utilization": self._gpu_monitor.get_utilization(),
        }

    def reset_all(self) -> None:
        """Resets the telemetry of all ring kernels, and the totals of removed ones."""
        for telemetry in [*self.get_all_telemetry().values(), self._removed]:
            telemetry.reset()
