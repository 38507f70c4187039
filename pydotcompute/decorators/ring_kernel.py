"""``@ring_kernel``: declares a function as a ring kernel that can be launched by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, overload

from pydotcompute.exceptions import InvalidConfigurationError
from pydotcompute.ring_kernels.lifecycle import Supervision
from pydotcompute.ring_kernels.message import RingKernelMessage
from pydotcompute.ring_kernels.runtime import register_ring_kernel

__all__ = ["RingKernelBuilder", "get_ring_kernel_meta", "is_ring_kernel", "ring_kernel"]

F = TypeVar("F", bound=Callable[..., Any])


@overload
def ring_kernel(func: F) -> F: ...
@overload
def ring_kernel(
    func: None = None,
    *,
    kernel_id: str | None = None,
    input_type: type[Any] | None = None,
    output_type: type[Any] | None = None,
    queue_size: int = 4096,
    input_queue_size: int | None = None,
    output_queue_size: int | None = None,
    grid_size: int = 1,
    block_size: int = 256,
    backpressure: str = "block",
    auto_register: bool = True,
    supervision: Supervision | None = None,
    device: str | None = None,
    state: Any = None,
    fast_math: bool = False,
) -> Callable[[F], F]: ...


def ring_kernel(
    func: F | None = None,
    *,
    kernel_id: str | None = None,
    input_type: type[RingKernelMessage] | type[Any] | None = None,
    output_type: type[RingKernelMessage] | type[Any] | None = None,
    queue_size: int = 4096,
    input_queue_size: int | None = None,
    output_queue_size: int | None = None,
    grid_size: int = 1,
    block_size: int = 256,
    backpressure: str = "block",
    auto_register: bool = True,
    supervision: Supervision | None = None,
    device: str | None = None,
    state: Any = None,
    fast_math: bool = False,
) -> F | Callable[[F], F]:
    """Declares a function as a ring kernel.

    The function can still be called directly, for example in tests.

    Args:
        func: A function with a context parameter, usually ``async``.
        kernel_id: Name of the ring kernel; by default the function's name.
        input_type: Class of the messages; others are rejected.
        output_type: Class of replies and outputs.
        queue_size: Capacity of the input queue and of the output queue, in messages.
        input_queue_size: Capacity of the input queue; overrides `queue_size`.
        output_queue_size: Capacity of the output queue; overrides `queue_size`.
        grid_size: Number of blocks, on a GPU.
        block_size: Number of threads per block, on a GPU.
        backpressure: What a full input queue does: ``"block"``, ``"reject"`` or ``"drop_oldest"``.
        auto_register: Whether ``runtime.launch(kernel_id)`` finds the function by name.
        supervision: What happens after an exception; by default the kernel fails.
        device: Declares a native ring kernel (:mod:`pydotcompute.native`): the function is a plain ``handler(ctx, state, msg)``, which is
            compiled at launch for ``"cpu"`` or ``"cuda"`` and runs there without the GIL.
        state: Initial state of a native ring kernel: a class decorated with ``pydotcompute.native.state``, or an instance of one.
        fast_math: Lets a native ring kernel compute faster on a GPU, with results that differ in the last bits.

    Returns:
        The function.

    Example:
        >>> @ring_kernel(kernel_id="double", queue_size=64)
        ... async def double(ctx):
        ...     while not ctx.should_terminate:
        ...         await ctx.send(2 * await ctx.receive())
        >>> get_ring_kernel_meta(double)["kernel_id"]
        'double'
    """

    if device not in (None, "cpu", "cuda", "emulated"):
        raise InvalidConfigurationError("device", device, "choose 'cpu' or 'cuda', or None for a ring kernel in Python")
    if device is None and state is not None:
        raise InvalidConfigurationError("state", state, "only native ring kernels declare a state; pass device= too")
    if device is None and fast_math:
        raise InvalidConfigurationError("fast_math", fast_math, "only native ring kernels are compiled; pass device= too")

    def decorate(function: F) -> F:
        config: dict[str, Any] = {
            "input_queue_size": input_queue_size or queue_size,
            "output_queue_size": output_queue_size or queue_size,
            "grid_size": grid_size,
            "block_size": block_size,
            "backpressure_strategy": backpressure,
        }
        if supervision is not None:
            config["supervision"] = supervision
        name = kernel_id or function.__name__
        meta = {"kernel_id": name, "input_type": input_type, "output_type": output_type, "config": config}
        if device is not None:
            meta["native"] = {"device": device, "state": state} | ({"fast_math": True} if fast_math else {})

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        decorated: Any = wrapper
        decorated._ring_kernel_meta = vars(function)["_ring_kernel_meta"] = meta
        decorated._original_func = function
        if auto_register:
            register_ring_kernel(name, function, input_type, output_type, **config)
        return decorated  # type: ignore[no-any-return]

    return decorate if func is None else decorate(func)


def get_ring_kernel_meta(func: Callable[..., Any]) -> dict[str, Any] | None:
    """Returns the metadata of a decorated function: ``kernel_id``, ``input_type``, ``output_type``, ``config``; or ``None``.

    Args:
        func: Any function.
    """
    meta: dict[str, Any] | None = getattr(func, "_ring_kernel_meta", None)
    return meta


def is_ring_kernel(func: Callable[..., Any]) -> bool:
    """Whether a function is decorated with ``@ring_kernel``.

    Args:
        func: Any function.
    """
    return get_ring_kernel_meta(func) is not None


class RingKernelBuilder:
    """Declares a ring kernel step by step. Each step returns the builder.

    Args:
        kernel_id: Name of the ring kernel.

    Example:
        >>> async def handler(ctx): ...
        >>> kernel = RingKernelBuilder("mine").with_queue_size(2000).with_handler(handler).build()
        >>> is_ring_kernel(kernel)
        True
    """

    def __init__(self, kernel_id: str) -> None:
        self._kernel_id = kernel_id
        self._input_type: type | None = None
        self._output_type: type | None = None
        self._input_queue_size = 4096
        self._output_queue_size = 4096
        self._grid_size = 1
        self._block_size = 256
        self._backpressure = "block"
        self._handler: Callable[..., Any] | None = None

    def with_input_type(self, input_type: type) -> RingKernelBuilder:
        """Sets the class of the messages.

        Args:
            input_type: The class; other messages are rejected.
        """
        self._input_type = input_type
        return self

    def with_output_type(self, output_type: type) -> RingKernelBuilder:
        """Sets the class of replies and outputs.

        Args:
            output_type: The class.
        """
        self._output_type = output_type
        return self

    def with_queue_size(self, size: int) -> RingKernelBuilder:
        """Sets the capacity of both queues, in messages.

        Args:
            size: At least 1.
        """
        self._input_queue_size = self._output_queue_size = size
        return self

    def with_input_queue_size(self, size: int) -> RingKernelBuilder:
        """Sets the capacity of the input queue, in messages.

        Args:
            size: At least 1.
        """
        self._input_queue_size = size
        return self

    def with_output_queue_size(self, size: int) -> RingKernelBuilder:
        """Sets the capacity of the output queue, in messages.

        Args:
            size: At least 1.
        """
        self._output_queue_size = size
        return self

    def with_grid_size(self, size: int) -> RingKernelBuilder:
        """Sets the number of blocks, on a GPU.

        Args:
            size: At least 1.
        """
        self._grid_size = size
        return self

    def with_block_size(self, size: int) -> RingKernelBuilder:
        """Sets the number of threads per block, on a GPU.

        Args:
            size: At least 1.
        """
        self._block_size = size
        return self

    def with_backpressure(self, strategy: str) -> RingKernelBuilder:
        """Sets what a full input queue does with a message.

        Args:
            strategy: ``"block"``, ``"reject"`` or ``"drop_oldest"``.
        """
        self._backpressure = strategy
        return self

    def with_handler(self, handler: Callable[..., Any]) -> RingKernelBuilder:
        """Sets the function of the ring kernel.

        Args:
            handler: The function; it receives the context.
        """
        self._handler = handler
        return self

    def build(self) -> Callable[..., Any]:
        """Declares the ring kernel.

        Returns:
            The decorated function.

        Raises:
            ValueError: The function is missing; call :meth:`with_handler` first.
        """
        if self._handler is None:
            raise ValueError("Handler function is required: call with_handler() before build()")
        decorated: Callable[..., Any] = ring_kernel(
            kernel_id=self._kernel_id,
            input_type=self._input_type,
            output_type=self._output_type,
            input_queue_size=self._input_queue_size,
            output_queue_size=self._output_queue_size,
            grid_size=self._grid_size,
            block_size=self._block_size,
            backpressure=self._backpressure,
        )(self._handler)
        return decorated

    def __repr__(self) -> str:
        return f"RingKernelBuilder({', '.join(f'{name[1:]}={value!r}' for name, value in vars(self).items())})"
