"""The functions that runtimes launch by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["get_registered_kernel", "kernel_registry", "register_ring_kernel"]

kernel_registry: dict[str, dict[str, Any]] = {}


def register_ring_kernel(
    kernel_id: str,
    func: Callable[..., Any],
    input_type: type | None = None,
    output_type: type | None = None,
    **config: Any,
) -> None:
    """Registers a function under a name for all runtimes, as ``@ring_kernel`` does.

    Args:
        kernel_id: The name. A later registration replaces an earlier one.
        func: The function.
        input_type: Class of the messages.
        output_type: Class of replies and outputs.
        **config: Settings, as in :class:`~pydotcompute.ring_kernels.lifecycle.RingKernelConfig`.
    """
    kernel_registry[kernel_id] = {"func": func, "input_type": input_type, "output_type": output_type, "config": config}


def get_registered_kernel(kernel_id: str) -> dict[str, Any] | None:
    """Returns the registration of a name: ``func``, ``input_type``, ``output_type`` and ``config``; ``None`` if there is none.

    Args:
        kernel_id: Name that ``@ring_kernel`` or :func:`register_ring_kernel` registered.
    """
    return kernel_registry.get(kernel_id)
