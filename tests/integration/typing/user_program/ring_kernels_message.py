"""Messages."""

from dataclasses import dataclass
from uuid import UUID, uuid4

from pydotcompute.ring_kernels.message import RingKernelMessage, deserialize_message, get_message_type, message


@message
@dataclass
class Reading(RingKernelMessage):
    celsius: float = 0.0


@message
class Note(RingKernelMessage):
    text: str = ""


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
    print(ids, priority, again, correlated, reply, found, any_message, Note)
