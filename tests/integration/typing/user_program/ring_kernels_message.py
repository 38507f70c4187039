"""Messages."""

from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import Any, assert_type
from uuid import UUID, uuid4

from pydotcompute.ring_kernels.message import RingKernelMessage, deserialize_message, get_message_type, message


@message
@dataclass
class Reading(RingKernelMessage):
    celsius: float = 0.0


@message
class Note(RingKernelMessage):
    text: str = ""


@message
class Report(RingKernelMessage):
    # The header is keyword-only: fields need no defaults.
    reading: Reading
    taken: datetime
    points: tuple[int, ...] = ()


@message()
class Empty(RingKernelMessage):
    pass


def use() -> None:
    reading = Reading(celsius=20.0, message_id=uuid4(), priority=200, correlation_id=None)
    ids: tuple[UUID, UUID | None] = (reading.message_id, reading.correlation_id)
    priority: int = reading.priority
    data: bytes = reading.serialize()
    again: Reading = Reading.deserialize(data)
    correlated: RingKernelMessage = reading.with_correlation(uuid4())
    reply: Reading = reading.reply(celsius=21.0)
    found: type[RingKernelMessage] | None = get_message_type("Reading")
    any_message: RingKernelMessage = deserialize_message(data)
    report = Report(reading, datetime.now(), points=(1, 2), priority=3)
    assert_type(report.reading.priority, int)
    assert_type(report.points, tuple[int, ...])
    assert_type(Report.deserialize(report.serialize()), Report)
    assert_type(replace(report, points=()), Report)
    assert_type(report.with_correlation(reading.message_id), Report)
    assert_type(Empty(priority=1).serialize(), bytes)
    values: dict[str, Any] = asdict(report)
    print(ids, priority, again, correlated, reply, found, any_message, Note, values, fields(report))


def mistakes() -> None:
    # Under `--strict`, a comment that hides no error is one itself.
    Report(5, datetime.now())  # type: ignore[arg-type]
    Report(Reading())  # type: ignore[call-arg]
    Report(Reading(), datetime.now(), unknown=1)  # type: ignore[call-arg]
    Reading(priority="high")  # type: ignore[arg-type]
    Note("text", uuid4())  # type: ignore[call-arg]
    print(Reading().celcius)  # type: ignore[attr-defined]
    Reading.deserialize("text")  # type: ignore[arg-type]
