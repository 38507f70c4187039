"""One vocabulary in all tiers: each object with a lifecycle has the same words, and the hints of its errors name methods that it has."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from pydotcompute import RingKernelRuntime
from pydotcompute.exceptions import _STATE_HINTS, KernelError, QueueError
from pydotcompute.native import NativeKernel, NativeRuntime
from pydotcompute.native.ring_kernel import NativeRingKernel
from pydotcompute.ring_kernels.cython_kernel import CythonRingKernel
from pydotcompute.ring_kernels.lifecycle import KernelContext, RingKernel
from pydotcompute.ring_kernels.threaded_kernel import ThreadedKernelPool, ThreadedRingKernel
from tests.native_handlers import Count, Sequence, picky

WORDS = ["launch", "activate", "deactivate", "reactivate", "terminate"]
OLD_WORDS = {ThreadedRingKernel: ["start", "stop"], CythonRingKernel: ["start", "stop"], ThreadedKernelPool: ["start_all", "stop_all"]}
# States that errors name, and the calls that lead there from a new object. `fail` sends a message at which the function raises.
STATES = {
    "CREATED": [],
    "LAUNCHED": ["launch"],
    "ACTIVE": ["launch", "activate"],
    "DEACTIVATED": ["launch", "activate", "deactivate"],
    "TERMINATED": ["launch", "activate", "terminate"],
    "FAILED": ["launch", "activate", "fail"],
}


async def on_a_loop(ctx: Any) -> None:
    async for message in ctx:
        if message.value < 0:
            raise ValueError(message.value)
        await ctx.send(message)


def on_a_thread(ctx: Any) -> None:
    while not ctx.should_terminate:
        message = ctx.receive(timeout=10)
        if message is not None:
            if message.value < 0:
                raise ValueError(message.value)
            ctx.send(message, timeout=10)


@dataclass(frozen=True)
class Tier:
    """A kind of object with a lifecycle."""

    make: Callable[[], Any]
    is_launched_by_its_constructor: bool = False

    async def reach(self, state: str) -> Any:
        """Returns a new object in a state."""
        kernel = self.make()
        for step in STATES[state]:
            if step == "fail":
                await fail(kernel)
            elif not (step == "launch" and self.is_launched_by_its_constructor):
                await call(kernel, step)
        return kernel


async def call(kernel: Any, method: str, *args: Any) -> Any:
    result = getattr(kernel, method)(*args)
    return await result if inspect.isawaitable(result) else result


async def fail(kernel: Any) -> None:
    """Makes the function raise, and returns after the state has changed."""
    with pytest.raises(KernelError):
        if isinstance(kernel, ThreadedKernelPool):
            for _ in range(len(kernel)):
                kernel.send(Count(-1), timeout=10)
            kernel.receive_any(timeout=10)
        elif isinstance(kernel, (ThreadedRingKernel, CythonRingKernel)):
            kernel.send(Count(-1), timeout=10)
            kernel.receive(timeout=10)
        else:
            await call(kernel, "ask", Count(-1), 10)


TIERS = {
    "RingKernel": Tier(lambda: RingKernel("k", on_a_loop)),
    "NativeRingKernel": Tier(lambda: NativeRingKernel("k", picky, runtime=NativeRuntime(1), state=Sequence)),
    "ThreadedRingKernel": Tier(lambda: ThreadedRingKernel("k", on_a_thread)),
    "CythonRingKernel": Tier(lambda: CythonRingKernel("k", on_a_thread)),
    "ThreadedKernelPool": Tier(lambda: ThreadedKernelPool("k", on_a_thread, num_workers=2)),
    "NativeKernel": Tier(lambda: NativeKernel(picky, state=Sequence), is_launched_by_its_constructor=True),
}
# The native handler does not reply to odd numbers.
MESSAGES = {"send": (Count(2),), "tell": (Count(2),), "ask": (Count(3),), "receive": (), "receive_any": ()}
NAMED_OBJECTS = {"runtime": RingKernelRuntime, "ctx": KernelContext}


def hints(text: str) -> Iterator[tuple[str, str]]:
    """Yields the methods that the text of an error names, each with the name of its object, if the text says it."""
    for owner, method in re.findall(r"(?:(\w+)\.)?(\w+)\(", text):
        yield owner, method
    for method in re.findall(r"`(\w+)`", text):
        yield "", method


def check_hints(kernel: Any, text: str) -> int:
    """Checks that the methods exist that a text names. Returns their number."""
    found = [*hints(text)]
    for owner, method in found:
        assert hasattr(NAMED_OBJECTS.get(owner, kernel), method), text
    return len(found)


needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs Numba")
every_tier = pytest.mark.parametrize(
    "tier", [pytest.param(tier, marks=needs_numba) if tier.startswith("Native") else tier for tier in TIERS]
)


@every_tier
async def test_the_words_lead_from_launch_to_termination(tier: str) -> None:
    kernel = await TIERS[tier].reach("DEACTIVATED")
    await call(kernel, "reactivate")
    await call(kernel, "terminate", 10.0)


@every_tier
def test_the_words_have_the_same_parameters(tier: str) -> None:
    cls = type(TIERS[tier].make())
    for word in WORDS:
        parameters = [p for p in inspect.signature(getattr(cls, word)).parameters.values() if p.name != "self"]
        assert all(p.name == "timeout" and p.default is not p.empty for p in parameters), word
    for word in OLD_WORDS.get(cls, []):
        assert "0.2" in (inspect.getdoc(getattr(cls, word)) or ""), word


@every_tier
@pytest.mark.parametrize("state", STATES)
async def test_the_hints_of_errors_name_methods_of_the_object(tier: str, state: str) -> None:
    if state == "CREATED" and TIERS[tier].is_launched_by_its_constructor:
        pytest.skip("its constructor launches it")
    texts: list[str] = []
    for method in [*WORDS, *OLD_WORDS.get(type(TIERS[tier].make()), []), *MESSAGES]:
        kernel = await TIERS[tier].reach(state)
        if not hasattr(kernel, method):
            continue
        try:
            await call(kernel, method, *MESSAGES.get(method, ()), *([0] if method in MESSAGES else []))
        except (KernelError, QueueError) as error:
            texts.append(str(error))
            check_hints(kernel, str(error))
        finally:
            await call(kernel, "terminate")
    assert texts


@pytest.mark.parametrize("tier", [pytest.param(tier, marks=needs_numba) for tier in TIERS if tier.startswith("Native")])
async def test_the_hints_of_a_request_without_a_reply(tier: str) -> None:
    kernel = await TIERS[tier].reach("ACTIVE")
    with pytest.raises(KernelError, match="gave no reply") as unanswered:
        await call(kernel, "ask", Count(3), 10)
    check_hints(kernel, str(unanswered.value))
    await call(kernel, "terminate")


@every_tier
def test_the_hint_of_each_state_fits_every_tier(tier: str) -> None:
    kernel = TIERS[tier].make()
    for state, hint in _STATE_HINTS.items():
        assert check_hints(kernel, hint) or state in ("STOPPED", "TERMINATED")


async def test_the_hints_of_a_runtime() -> None:
    async with RingKernelRuntime() as runtime:
        await runtime.launch("k", on_a_loop)
        for method in ("activate", "deactivate", "reactivate", "terminate", "receive", "get_kernel_state"):
            with pytest.raises(KernelError) as unknown:
                await call(runtime, method, "unknown")
            assert check_hints(runtime, str(unknown.value))
        with pytest.raises(KernelError) as used:
            await runtime.launch("k", on_a_loop)
        check_hints(runtime, str(used.value))
    with pytest.raises(KernelError) as closed:
        await runtime.launch("l", on_a_loop)
    check_hints(runtime, str(closed.value))
    await runtime.start()
    await runtime.launch("l", on_a_loop)
    await runtime.shutdown()


@needs_numba
def test_a_native_runtime_starts_again_after_its_shutdown() -> None:
    runtime = NativeRuntime(1)
    runtime.start()
    first = NativeKernel(picky, "k", state=Sequence, runtime=runtime)
    runtime.start()
    first.activate()
    assert first.ask(Count(4)).value == 2
    runtime.shutdown()
    with pytest.raises(KernelError) as closed:
        NativeKernel(picky, "k", state=Sequence, runtime=runtime)
    assert check_hints(runtime, str(closed.value)) == 1
    runtime.start()
    with NativeKernel(picky, "k", state=Sequence, runtime=runtime) as second:
        assert second.ask(Count(4)).value == 2
    runtime.shutdown()
