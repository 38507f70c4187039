"""Messages, states and handlers shared by the tests of native ring kernels. They run on the CPU and are compiled for GPUs."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from pydotcompute.native import HandlerContext, float32, state, uint8
from pydotcompute.ring_kernels.message import RingKernelMessage, message


@message
class Reading(RingKernelMessage):
    sensor: int
    celsius: float32


@message
class Hottest(RingKernelMessage):
    sensor: int
    celsius: float32
    seen: int = 0


@state
class Best:
    sensor: int
    seen: int
    celsius: float32 = -273.15


def hottest(ctx: HandlerContext, state: Best, msg: Reading) -> Hottest:
    state.seen += 1
    if msg.celsius > state.celsius:
        state.sensor = msg.sensor
        state.celsius = msg.celsius
    return Hottest(state.sensor, celsius=state.celsius, seen=state.seen)


@message
class Count(RingKernelMessage):
    value: int


@state
class Sequence:
    next: int
    broken: int


def in_sequence(ctx: HandlerContext, state: Sequence, msg: Count) -> Count:
    """Replies with the number of messages so far that were out of sequence."""
    if msg.value != state.next:
        state.broken += 1
    state.next = msg.value + 1
    return Count(state.broken)


def picky(ctx: HandlerContext, state: Sequence, msg: Count) -> Count | None:
    """Raises for negative values, and replies only to even ones."""
    state.next += 1
    if msg.value == -1:
        raise ValueError("negative")
    if msg.value < 0:
        raise KeyError("far below", msg.value)
    if msg.value % 2:
        return None
    return Count(msg.value // 2)


@message
class Window(RingKernelMessage):
    samples: Annotated[NDArray[np.float32], 8]
    gain: float32
    flags: uint8 = 0
    loud: bool = False


@message
class Spectrum(RingKernelMessage):
    bins: Annotated[NDArray[np.float32], (2, 4)]
    rms: float32
    loud: bool


@state
class Smooth:
    mean: Annotated[NDArray[np.float32], (2, 4)]
    windows: int


def clamp(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)


def spectrum(ctx: HandlerContext, state: Smooth, msg: Window) -> Spectrum:
    power = 0.0
    for i in range(8):
        value = clamp(msg.samples[i] * msg.gain, 100.0)
        power += value * value
        state.mean[i // 4, i % 4] += 0.5 * (value - state.mean[i // 4, i % 4])
    state.windows += 1
    return Spectrum(state.mean, math.sqrt(power / 8.0), msg.loud)


def ratio(ctx: HandlerContext, state: None, msg: Hottest) -> Reading:
    """Divides by the values of the message, including zero."""
    return Reading(msg.seen // msg.sensor, msg.celsius / msg.sensor)
