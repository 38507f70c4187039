"""Telemetry of ring kernels, its collector, and the monitor of GPUs."""

import asyncio
import sys
import time

import pytest

from async_handlers import Request, double
from pydotcompute.ring_kernels.runtime import RingKernelRuntime
from pydotcompute.ring_kernels.telemetry import GPUMonitor, RingKernelTelemetry, TelemetryCollector

pytestmark = pytest.mark.usefixtures("quiet_log")


class TestTelemetry:
    async def test_a_runtime_records_telemetry(self) -> None:
        async with RingKernelRuntime() as runtime:
            await runtime.launch("k", double)
            await runtime.activate("k")
            for value in range(10):
                await runtime.send_and_receive("k", Request(value))
            await asyncio.sleep(0)
            telemetry = runtime.get_telemetry("k")
            assert telemetry is not None
            assert (telemetry.messages_processed, telemetry.messages_dropped, telemetry.error_count) == (10, 0, 0)
            assert 0 < telemetry.min_latency_ns <= telemetry.avg_latency_ns <= telemetry.max_latency_ns
            assert telemetry.uptime_seconds > 0 and telemetry.throughput > 0
            await runtime.deactivate("k")
            await runtime.send("k", Request(-1))
            await runtime.send("k", Request(1))
            assert telemetry.queue_depth == 2
            await runtime.reactivate("k")
            await asyncio.sleep(0.01)
            assert (telemetry.messages_processed, telemetry.messages_dropped, telemetry.error_count) == (10, 2, 1)
            assert telemetry.last_error == "ValueError: negative: -1"
            summary = runtime.get_summary()
            assert (summary["kernel_count"], summary["total_messages_processed"], summary["total_errors"]) == (1, 10, 1)
            assert set(runtime.get_all_telemetry()) == {"k"}

    async def test_telemetry_can_be_disabled(self) -> None:
        async with RingKernelRuntime(enable_telemetry=False) as runtime:
            await runtime.launch("k", double)
            assert runtime.get_telemetry("k") is None and runtime.get_all_telemetry() == {}
            assert runtime.get_summary()["kernel_count"] == 1

    def test_manual_recording(self) -> None:
        telemetry = RingKernelTelemetry("k", messages_processed=1, total_latency_ns=500, uptime_seconds=2.0)
        telemetry.record_message(1_500)
        telemetry.record_drop()
        telemetry.record_error("no")
        assert telemetry.avg_latency_ns == 1000 and telemetry.avg_latency_ms == 0.001 and telemetry.throughput == 1.0
        assert telemetry.to_dict()["last_error"] == "no"
        telemetry.reset()
        assert telemetry.to_dict() == RingKernelTelemetry("k").to_dict()

    def test_the_lowest_latency_may_be_zero(self) -> None:
        telemetry = RingKernelTelemetry("k")
        assert telemetry.min_latency_ns == 0
        telemetry.record_message(7)
        assert telemetry.min_latency_ns == 7
        telemetry.record_message(0)
        telemetry.record_message(3)
        assert telemetry.min_latency_ns == 0
        telemetry.reset()
        telemetry.record_message(9)
        assert telemetry.min_latency_ns == 9

    def test_the_collector(self) -> None:
        collector = TelemetryCollector()
        collector.register_kernel("a").record_message(2_000_000)
        collector.register_kernel("b").record_drop()
        summary = collector.get_summary()
        assert (summary["kernel_count"], summary["total_messages_processed"], summary["total_messages_dropped"]) == (2, 1, 1)
        collector.reset_all()
        collector.unregister_kernel("a")
        collector.unregister_kernel("unknown")
        assert collector.get_kernel_telemetry("a") is None and list(collector.get_all_telemetry()) == ["b"]

    def test_registering_twice_keeps_the_counts_and_starts_the_uptime_once(self) -> None:
        collector = TelemetryCollector()
        telemetry = collector.register_kernel("k")
        telemetry.record_message(5)
        assert collector.register_kernel("k") is telemetry
        assert telemetry.messages_processed == 1
        before = telemetry.uptime_seconds
        time.sleep(0.001)
        assert telemetry.uptime_seconds > before > 0

    async def test_totals_do_not_fall_when_a_ring_kernel_ends(self) -> None:
        async with RingKernelRuntime() as runtime:
            for number in range(1, 4):
                await runtime.launch("k", double)
                await runtime.activate("k")
                await runtime.send_and_receive("k", Request(1))
                await asyncio.sleep(0)
                await runtime.terminate("k")
                summary = runtime.get_summary()
                assert (summary["kernel_count"], summary["total_messages_processed"]) == (0, number)
            assert summary["uptime_seconds"] > 0
            assert 0 <= summary["gpu_utilization"] <= 1

    def test_a_monitor_without_gpus_shows_zeros(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", None)
        monitor = GPUMonitor()
        assert not monitor.is_available and "pip install" in monitor.unavailable_reason
        info = monitor.get_gpu_info(0)
        assert (info.name, info.uuid, info.memory_total, info.memory_utilization, info.power_usage) == ("N/A", "N/A", 0, 0.0, 0.0)
        assert monitor.get_utilization(0) == 0.0
        assert monitor.get_memory_info(0) == {"total": 0, "used": 0, "free": 0}
        assert monitor.get_all_gpu_info() == []

    def test_gpus(self) -> None:
        monitor = GPUMonitor()
        assert monitor.is_available == (monitor.device_count > 0)
        assert len(monitor.get_all_gpu_info()) == monitor.device_count
        assert monitor.is_available or monitor.unavailable_reason
        monitor.shutdown()
        monitor.shutdown()
