"""Native ring kernels: plain Python handlers, compiled by Numba and run without the GIL.

A handler is a plain function with three parameters: context, state and message. It reads the fields of the message, changes those of the
state, and returns its reply:

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

A handler can:

- Read and write numbers and fixed-size arrays (:mod:`pydotcompute.native.fields`), use ``math`` and much of NumPy, and call plain
  functions, which are compiled too.
- Return a message of the annotated class, or ``None`` for no reply.
- Raise: the message becomes a dead letter, and a waiting caller gets the exception.

Differences from Python: integers have 64 bits and wrap around, and division by zero follows NumPy. If all floating-point fields are
``float32``, literals such as ``0.5`` are ``float32`` too.

A handler is compiled by the first launch. Later launches, and later processes, use the compiled code again, as long as the function and
everything that it refers to are the same.
"""

from pydotcompute.native.cubin import compile_cubin
from pydotcompute.native.fields import state
from pydotcompute.native.handler import HandlerContext
from pydotcompute.native.kernel import NativeKernel
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
