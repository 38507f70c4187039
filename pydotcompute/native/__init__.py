"""Native ring kernels: plain Python handlers, compiled by Numba and run without the interpreter.

A handler is a plain function of three parameters: a context, the state, and a message. It reads the message's fields, changes the
state's, and returns its answer:

    >>> from pydotcompute.native import NativeKernel, float32, state
    >>> from pydotcompute.ring_kernels.message import message
    >>> @message
    ... class Reading:
    ...     sensor: int
    ...     celsius: float32
    >>> @message
    ... class Hottest:
    ...     sensor: int
    ...     celsius: float32
    >>> @state
    ... class Best:
    ...     sensor: int
    ...     celsius: float32 = -273.15
    >>> def hottest(ctx, state: Best, msg: Reading) -> Hottest:
    ...     if msg.celsius > state.celsius:
    ...         state.sensor = msg.sensor
    ...         state.celsius = msg.celsius
    ...     return Hottest(state.sensor, state.celsius)
    >>> with NativeKernel(hottest, state=Best) as kernel:
    ...     kernel.ask(Reading(7, 21.5)).sensor
    7

What a handler can do:

- Read and write numbers and arrays of a fixed size (:mod:`pydotcompute.native.fields`); use ``math`` and much of NumPy; call plain
  functions, which are compiled with it.
- Return a message of the class that it is annotated to return, or ``None`` for no answer.
- Raise: the message is not handled then, and whoever asked gets the exception.

What differs from Python: integers have 64 bits and wrap around, division by zero follows NumPy, and where all fields are ``float32`` so
are literals such as ``0.5``.
"""

from pydotcompute.native.fields import state
from pydotcompute.native.handler import HandlerContext
from pydotcompute.native.kernel import NativeKernel, compile_cubin
from pydotcompute.native.runtime import NativeRuntime
from pydotcompute.native.scalar_types import float32, float64, int8, int16, int32, int64, uint8, uint16, uint32, uint64
from pydotcompute.native.stats import Latency, NativeStats

__all__ = [
    "HandlerContext",
    "Latency",
    "NativeKernel",
    "NativeRuntime",
    "NativeStats",
    "compile_cubin",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "state",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]
