"""Methods of messages: equality, `repr`, and the functions of `dataclasses`, `copy` and `pickle`."""

import copy
import dataclasses
import enum
import pickle
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from pydotcompute.ring_kernels.message import RingKernelMessage, message

ID = UUID(int=1)


class Color(enum.Enum):
    RED = 1
    GREEN = 2


@message
class Case:
    value: Any = None


@message
class Inner(RingKernelMessage):
    a: int = 0
    when: datetime | None = None


@message
class Outer(RingKernelMessage):
    color: Color
    inner: Inner | None = None
    many: list[Inner] = field(default_factory=list)


@message
class Signal(RingKernelMessage):
    samples: np.ndarray
    extra: Any = None
    hidden: int = field(default=0, repr=False, compare=False)


class TestMethods:
    def test_messages_with_arrays_are_compared(self) -> None:
        one = Signal(np.arange(3), {"k": [np.ones(2)]}, message_id=ID)
        assert one == Signal(np.arange(3), {"k": [np.ones(2)]}, 5, message_id=ID) and one == copy.deepcopy(one)
        others = [(np.arange(4), None), (np.array([0, 1, 3]), None), (np.arange(3), {"k": [np.zeros(2)]}), (None, None), (5, None)]
        for samples, extra in others:
            other = Signal(samples, extra, message_id=ID)
            assert one != other and other != one
        assert one != 5 and one != Case(message_id=ID)
        assert Case(np.arange(3), message_id=ID) == Case(np.arange(3), message_id=ID)

    def test_a_plain_dataclass_that_derives_from_the_base_compares_arrays(self) -> None:
        @dataclass
        class Plain(RingKernelMessage):
            data: Any = None

        assert Plain(data=np.ones(3), message_id=ID) == Plain(data=np.ones(3), message_id=ID)

    def test_user_defined_methods_are_kept(self) -> None:
        @message
        class Own(RingKernelMessage):
            a: int = 0

            def __eq__(self, other: object) -> bool:
                return True

            def __repr__(self) -> str:
                return "own"

            def __hash__(self) -> int:
                return 5

        assert Own(1) == 2 and repr(Own()) == "own" and hash(Own()) == 5

    def test_dataclass_functions(self) -> None:
        one = Outer(Color.RED, Inner(1), [Inner(2)])
        assert dataclasses.asdict(one)["inner"]["a"] == 1
        assert dataclasses.replace(one, color=Color.GREEN).message_id == one.message_id
        for again in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
            assert again == one and again.message_id == one.message_id
        with pytest.raises(TypeError, match="unhashable"):
            hash(one)

    def test_the_repr_has_no_random_id(self) -> None:
        inner = Inner(a=1)
        assert repr(inner) == "Inner(a=1, when=None)"
        assert inner.__dict__.get("_message_id") is None, "the repr generated the id"
        assert repr(Inner(2, priority=200, correlation_id=UUID(int=0xABCDEF << 104))) == (
            "Inner(a=2, when=None, priority=200, correlation_id=abcdef00…)"
        )
        assert repr(Case(Inner())) == "Case(value=Inner(a=0, when=None))"
        assert repr(Signal(np.ones(1), hidden=1)) == "Signal(samples=array([1.]), extra=None)"
        box = Case()
        box.value = box
        assert repr(box) == "Case(value=...)"
