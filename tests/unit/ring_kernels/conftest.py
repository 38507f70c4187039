"""Fixtures of the tests of ring kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pydotcompute.ring_kernels.shared_queue import SharedQueue


@pytest.fixture
def queue() -> Iterator[SharedQueue]:
    """A shared queue of 8 slots of 64 bytes."""
    created = SharedQueue.create(capacity=8, slot_size=64)
    yield created
    created.close()
    SharedQueue.remove(created.name)
