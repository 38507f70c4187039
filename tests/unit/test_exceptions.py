"""Exceptions carry their details as attributes, and can be pickled."""

import asyncio
import pickle

import pytest

from pydotcompute import exceptions
from pydotcompute.exceptions import (
    BackendNotAvailableError,
    BufferNotAllocatedError,
    KernelNotFoundError,
    KernelStateError,
    KernelStopped,
    MessageDeserializationError,
    PyDotComputeError,
    QueueTimeoutError,
    TypeValidationError,
)


def test_the_end_of_a_ring_kernel_is_a_cancellation_that_no_handler_of_errors_catches() -> None:
    assert issubclass(KernelStopped, asyncio.CancelledError)
    assert not issubclass(KernelStopped, Exception)


@pytest.mark.parametrize("name", sorted({*exceptions.__all__} - {"KernelStopped"}))
def test_all_exceptions_derive_from_the_base(name: str) -> None:
    assert issubclass(getattr(exceptions, name), PyDotComputeError)


@pytest.mark.parametrize(
    "error",
    [
        KernelNotFoundError("k", ["a", "b"]),
        KernelStateError("k", "CREATED", "send"),
        QueueTimeoutError("k", 0.5, "receive"),
        MessageDeserializationError(int, ValueError("no")),
        BackendNotAvailableError("cuda", "no driver"),
        BufferNotAllocatedError(),
        TypeValidationError(int, str, "field x"),
    ],
)
def test_pickling_keeps_text_and_attributes(error: PyDotComputeError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert {k: repr(v) for k, v in vars(again).items()} == {k: repr(v) for k, v in vars(error).items()}


def test_a_state_error_says_what_to_do() -> None:
    assert "activate()" in str(KernelStateError("k", "LAUNCHED", "send message"))
