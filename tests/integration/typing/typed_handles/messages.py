"""`@message` as type checkers see it."""

from __future__ import annotations

from typing import assert_type
from uuid import UUID

from pydotcompute import RingKernelMessage, message


@message
class Reading(RingKernelMessage):
    sensor: int
    celsius: float = 20.0


@message
class Tagged(Reading):
    tag: str = ""


@message
class Plain:
    sensor: int
    celsius: float = 20.0


reading = Reading(1, celsius=21.5, priority=200)
assert_type(reading.sensor, int)
assert_type(reading.priority, int)
assert_type(reading.message_id, UUID)
assert_type(reading.correlation_id, UUID | None)
assert_type(reading.serialize(), bytes)
assert_type(Reading.deserialize(reading.serialize()), Reading)
assert_type(reading.with_correlation(reading.message_id), Reading)
assert_type(reading.reply(celsius=1.0, sensor=2), Reading)
Reading()  # type: ignore[call-arg]
Reading("one")  # type: ignore[arg-type]
Reading(1, humidity=0.5)  # type: ignore[call-arg]
print(reading.humidity)  # type: ignore[attr-defined]
assert_type(Tagged(1, 2.0, "tag", correlation_id=reading.message_id).tag, str)
Tagged(1, 2.0, 3)  # type: ignore[arg-type]

plain = Plain(1, celsius=2.0)
assert_type(plain.celsius, float)
Plain(celsius=2.0)  # type: ignore[call-arg]
Plain("one")  # type: ignore[arg-type]
