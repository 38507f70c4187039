"""Telemetry of ring kernels, its collector, and the monitor of GPUs."""

import asyncio
import copy
import dataclasses
import pickle
import sys
import time

import pytest

from async_handlers import Request, double
from pydotcompute.exceptions import NoReplyError
from pydotcompute.ring_kernels.latency import LatencySummary
from pydotcompute.ring_kernels.lifecycle import KernelContext
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

    async def test_percentiles_of_waiting_of_handling_and_of_asks(self) -> None:
        async def handle(ctx: KernelContext[float, float]) -> None:
            async for seconds in ctx:
                time.sleep(seconds)  # noqa: ASYNC251 - a handler that computes
                await ctx.send(seconds)

        async with RingKernelRuntime() as runtime:
            await runtime.launch("k", handle)
            await runtime.activate("k")
            for number in range(100):
                await runtime.send_and_receive("k", 0.05 if number >= 95 else 0.002)
            await asyncio.sleep(0)
            telemetry = runtime.get_telemetry("k")
            assert telemetry is not None
            for measured in (telemetry.latency, telemetry.handle_time, telemetry.ask_time):
                assert measured.samples == 100
                # A clock that other programs delay makes durations longer, never shorter.
                assert 1.97e6 <= measured.min_ns <= measured.p50_ns <= measured.p90_ns <= measured.p99_ns <= measured.max_ns
                assert measured.p99_ns >= 49e6 and measured.mean_ns >= 4.4e6 * 0.98
            assert telemetry.p50_latency_ns == telemetry.latency.p50_ns and telemetry.p99_latency_ns == telemetry.latency.p99_ns
            assert telemetry.p90_latency_ns == telemetry.latency.p90_ns
            # The messages did not wait.
            assert telemetry.queue_time.samples == 100 and telemetry.queue_time.p50_ns < telemetry.handle_time.p50_ns
            await runtime.deactivate("k")
            for _ in range(300):
                await runtime.send("k", 0.0)
            await asyncio.sleep(0.02)
            await runtime.reactivate("k")
            async with asyncio.timeout(30):
                while telemetry.messages_processed < 400:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert telemetry.queue_time.samples == 400 and telemetry.queue_time.p50_ns >= 19e6
            assert telemetry.ask_time.samples == 100

    async def test_an_ask_without_a_reply_has_no_duration(self) -> None:
        async def skip(ctx: KernelContext[int, int]) -> None:
            async for number in ctx:
                await ctx.skip(number)

        async with RingKernelRuntime() as runtime:
            await runtime.launch("k", skip)
            await runtime.activate("k")
            with pytest.raises(NoReplyError):
                await runtime.send_and_receive("k", 1)
            telemetry = runtime.get_telemetry("k")
            assert telemetry is not None and telemetry.ask_time == LatencySummary()

    async def test_of_many_messages_one_in_eight_is_measured_and_counts_eightfold(self) -> None:
        async with RingKernelRuntime() as runtime:
            kernel = await runtime.launch("k", double)
            await runtime.activate("k")
            for value in range(20_000):
                await kernel.ask(Request(value))
            telemetry = runtime.get_telemetry("k")
            assert telemetry is not None
            for measured in (telemetry.latency, telemetry.queue_time, telemetry.handle_time, telemetry.ask_time):
                assert abs(measured.samples - 20_000) <= 16
            assert telemetry.messages_processed in (19_999, 20_000)

    def test_percentiles_are_within_a_hundredth(self) -> None:
        telemetry = RingKernelTelemetry("k")
        for latency in range(1, 10_001):
            telemetry.record_message(latency * 1000)
        for measured, exact in ((telemetry.p50_latency_ns, 5e6), (telemetry.p90_latency_ns, 9e6), (telemetry.p99_latency_ns, 9.9e6)):
            assert abs(measured - exact) <= exact / 100
        telemetry.record_message(2**63)
        assert telemetry.latency.max_ns <= 3.6e12 and telemetry.max_latency_ns == 2**63
        assert telemetry.to_dict()["p50_latency_ns"] == telemetry.p50_latency_ns
        assert isinstance(telemetry.to_dict()["handle_time"], dict) and "p99_latency_ns" in repr(telemetry)
        for copied in (copy.copy(telemetry), pickle.loads(pickle.dumps(telemetry))):
            assert copied.latency == telemetry.latency
        telemetry.reset()
        assert telemetry.latency == LatencySummary()

    def test_the_summary_has_the_percentiles_of_all_kernels_also_of_removed_ones(self) -> None:
        collector = TelemetryCollector()
        for latency in range(1, 101):
            collector.register_kernel("fast").record_message(latency * 1_000)
            collector.register_kernel("slow").record_message(latency * 1_000_000)
        collector.unregister_kernel("slow")
        summary = collector.get_summary()
        assert summary["p50_latency_ns"] == pytest.approx(100_000, rel=0.01)
        assert summary["p90_latency_ns"] == pytest.approx(80e6, rel=0.01) and summary["p99_latency_ns"] == pytest.approx(98e6, rel=0.01)
        assert summary["ask_time"] == dataclasses.asdict(LatencySummary())
        collector.reset_all()
        assert collector.get_summary()["p99_latency_ns"] == 0

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
