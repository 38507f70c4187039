"""Message classes with the same name: in one process, after a redefinition, and between processes."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import msgpack
import pytest

from pydotcompute.exceptions import MessageDeserializationError
from pydotcompute.ring_kernels._class_names import find_class, qualified_name
from pydotcompute.ring_kernels.array_message import array_message
from pydotcompute.ring_kernels.message import RingKernelMessage, _message_registry, deserialize_message, get_message_type, message
from pydotcompute.ring_kernels.shared_queue import SharedQueue

SOURCE = """
from pydotcompute import RingKernelMessage, message

@message
class Gauge(RingKernelMessage):
    value: {type} = {default}
"""


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with two modules that define a message class `Gauge` with the same fields."""
    (tmp_path / "gauges_a.py").write_text(SOURCE.format(type="int", default="0"))
    (tmp_path / "gauges_b.py").write_text(SOURCE.format(type="int", default="0"))
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(_message_registry)
    yield tmp_path
    for name in set(_message_registry) - set(before):
        del _message_registry[name]
    for module in ("gauges_a", "gauges_b"):
        sys.modules.pop(module, None)


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def run(plant: Path, code: str, name: str = "program.py") -> str:
    """Runs a program in another process and returns what it prints."""
    (plant / name).write_text(code)
    done = subprocess.run([sys.executable, name], cwd=plant, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class TestOneProcess:
    def test_the_bytes_have_the_bare_name_while_there_is_one_class(self, plant: Path) -> None:
        a = load("gauges_a").Gauge(1)
        assert msgpack.unpackb(a.serialize())["__type__"] == "Gauge"
        load("gauges_b")
        assert msgpack.unpackb(a.serialize())["__type__"] == "gauges_a:Gauge"

    def test_messages_of_two_classes_come_back_as_what_they_were(self, plant: Path) -> None:
        for module in (load("gauges_a"), load("gauges_b")):
            gauge = module.Gauge(3)
            for read in (deserialize_message(gauge.serialize()), module.Gauge.deserialize(gauge.serialize())):
                assert type(read) is module.Gauge and read == gauge

    def test_a_class_rejects_the_bytes_of_another(self, plant: Path) -> None:
        a, b = load("gauges_a"), load("gauges_b")
        with pytest.raises(MessageDeserializationError, match=r"class 'gauges_a:Gauge', not of gauges_b:Gauge; call the deserialize"):
            b.Gauge.deserialize(a.Gauge(1).serialize())

        @message
        class Valve(RingKernelMessage):
            value: int = 0

        with pytest.raises(MessageDeserializationError, match="class 'Valve', not of gauges_a:Gauge"):
            a.Gauge.deserialize(Valve(1).serialize())

    def test_the_base_class_reads_the_header_of_any_message(self, plant: Path) -> None:
        assert RingKernelMessage.deserialize(load("gauges_a").Gauge(1, priority=7).serialize()).priority == 7

    def test_a_bare_name_of_two_classes_is_an_error_that_lists_them(self, plant: Path) -> None:
        a = load("gauges_a")
        data = a.Gauge(5).serialize()
        assert deserialize_message(data).value == 5  # type: ignore[attr-defined]
        load("gauges_b")
        with pytest.raises(MessageDeserializationError, match="several: gauges_a:Gauge, gauges_b:Gauge; call the deserialize"):
            deserialize_message(data)
        # A definite class reads them if it has exactly these fields.
        assert a.Gauge.deserialize(data).value == 5
        with pytest.raises(MessageDeserializationError, match="their fields are not those of gauges_a:Gauge"):
            a.Gauge.deserialize(data.replace(b"\xa5value", b"\xa5other"))
        with pytest.raises(MessageDeserializationError, match="their fields are not those of gauges_a:Gauge"):
            a.Gauge.deserialize(msgpack.packb({"value": 1, "__type__": "Gauge"}))

    def test_nested_messages(self, plant: Path) -> None:
        @message
        class Panel:
            gauges: list[Any]

        panel = Panel([load("gauges_a").Gauge(1), load("gauges_b").Gauge(2)])
        read = Panel.deserialize(panel.serialize())
        assert [qualified_name(type(gauge)) for gauge in read.gauges] == ["gauges_a:Gauge", "gauges_b:Gauge"]

    def test_a_reloaded_class_replaces_its_earlier_definition(self, plant: Path) -> None:
        a = load("gauges_a")
        former = a.Gauge
        data = former(1).serialize()
        (plant / "gauges_a.py").write_text(SOURCE.format(type="float", default="0.5") + "    unit: str = 'bar'\n")
        importlib.invalidate_caches()
        importlib.reload(a)
        assert a.Gauge is not former
        read = deserialize_message(data)
        assert type(read) is a.Gauge and read.unit == "bar"
        assert msgpack.unpackb(a.Gauge(1).serialize())["__type__"] == "Gauge"

    def test_classes_of_two_functions_are_told_apart(self) -> None:
        def first() -> type[Any]:
            @message
            class Dial:
                value: int

            return Dial

        def second() -> type[Any]:
            @message
            class Dial:
                value: int

            return Dial

        one, again, other = first(), first(), second()
        assert type(deserialize_message(again(1).serialize())) is again
        assert type(deserialize_message(other(1).serialize())) is other
        with pytest.raises(MessageDeserializationError, match=r"first\.<locals>\.Dial"):
            other.deserialize(again(1).serialize())
        # The same class, defined twice.
        assert again.deserialize(one(1).serialize()).value == 1

    def test_array_messages_reject_the_bytes_of_another_class(self) -> None:
        @array_message
        class Left:
            value: int = 0

        @array_message
        class Right:
            value: int = 0

        with pytest.raises(MessageDeserializationError, match="class 'Left', not of"):
            Right.deserialize(Left(1).serialize())  # type: ignore[attr-defined]

    def test_the_registry(self, plant: Path) -> None:
        a, b = load("gauges_a"), load("gauges_b")
        assert get_message_type("gauges_a:Gauge") is a.Gauge and get_message_type("gauges_b:Gauge") is b.Gauge
        assert get_message_type("Gauge") is b.Gauge, "the one registered last"
        assert "gauges_a:Gauge" in _message_registry and "Gauge" in _message_registry and "Gouge" not in _message_registry
        del _message_registry["gauges_b:Gauge"]
        assert get_message_type("Gauge") is a.Gauge
        assert msgpack.unpackb(a.Gauge(1).serialize())["__type__"] == "Gauge"
        assert get_message_type("RingKernelMessage") is RingKernelMessage

    def test_a_plain_dataclass_that_derives_from_the_base_is_known(self) -> None:
        @dataclass
        class Derived(RingKernelMessage):
            value: int = 0

        derived = Derived(value=2)
        assert deserialize_message(derived.serialize()) == derived


class TestNames:
    def test_a_class_is_found_by_its_name(self) -> None:
        assert find_class(qualified_name(Path)) is Path
        assert find_class(qualified_name(TestNames)) is TestNames

    def test_a_lazy_module_imports_nothing(self, plant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (plant / "lazy.py").write_text("def __getattr__(name):\n    import gauges_a\n    return getattr(gauges_a, name)\n")
        monkeypatch.delitem(sys.modules, "lazy", raising=False)
        load("lazy")
        with pytest.raises(LookupError):
            find_class("lazy:Gauge")
        assert "gauges_a" not in sys.modules
        del sys.modules["lazy"]

    @pytest.mark.parametrize("name", ["os:system", "no.such.module:X", "pathlib:Path.cwd", "pathlib", "", "json:OrderedDict"])
    def test_other_names_are_not(self, name: str) -> None:
        with pytest.raises(LookupError, match="import the module"):
            find_class(name)
        assert "no.such.module" not in sys.modules


# Sends one message of the class `Gauge` of a module through a queue.
SEND = """
from pydotcompute.ring_kernels.shared_queue import SharedQueue
{definition}
queue = SharedQueue.attach({queue!r})
queue.put(Gauge(7))
queue.close()
"""


# Prints one message, or the error.
READ = """
from pydotcompute.ring_kernels.shared_queue import SharedQueue

try:
    print(SharedQueue.attach({queue!r}).get(timeout=5))
except Exception as error:
    print(error)
"""


class TestTwoProcesses:
    def send(self, plant: Path, definition: str, name: str = "program.py") -> SharedQueue:
        queue = SharedQueue.create(capacity=4)
        run(plant, SEND.format(definition=definition, queue=queue.name), name)
        return queue

    def test_the_reader_knows_both_classes(self, plant: Path) -> None:
        for module in ("gauges_a", "gauges_b"):
            load(module)
        for module in ("gauges_a", "gauges_b"):
            with self.send(plant, f"from {module} import Gauge") as queue:
                assert qualified_name(type(queue.get(timeout=5))) == f"{module}:Gauge"

    def test_the_sender_has_both_classes(self, plant: Path) -> None:
        a = load("gauges_a")
        with self.send(plant, "import gauges_b\nfrom gauges_a import Gauge") as queue:
            read = queue.get(timeout=5)
            assert type(read) is a.Gauge and read.value == 7

    def test_the_reader_knows_only_the_other_class(self, plant: Path) -> None:
        load("gauges_b")
        with self.send(plant, "from gauges_a import Gauge") as queue:
            with pytest.raises(
                MessageDeserializationError, match="no message class 'Gauge' of the sender's module, but gauges_b:Gauge"
            ) as caught:
                queue.get(timeout=5)
            assert msgpack.unpackb(caught.value.data)["value"] == 7  # type: ignore[attr-defined]

    def test_a_main_module_may_have_a_copy_of_the_class(self, plant: Path) -> None:
        definition = (plant / "gauges_a.py").read_text()
        b = load("gauges_b")
        with self.send(plant, definition) as queue:
            assert type(queue.get(timeout=5)) is b.Gauge
        # With other fields it is another class.
        with (
            self.send(plant, definition + "    unit: str = 'bar'\n") as queue,
            pytest.raises(MessageDeserializationError, match=r"fields are not those of gauges_b:Gauge: .* another class with this name"),
        ):
            queue.get(timeout=5)

    def test_a_main_module_reads_with_a_copy_of_the_class(self, plant: Path) -> None:
        a = load("gauges_a")
        program = (plant / "gauges_a.py").read_text() + READ
        with SharedQueue.create(capacity=4) as queue:
            queue.put(a.Gauge(7))
            assert run(plant, program.format(queue=queue.name)) == "Gauge(value=7)"
        with SharedQueue.create(capacity=4) as queue:
            queue.put(a.Gauge(7))
            assert "another class with this name" in run(plant, program.replace("value: int", "bar: int").format(queue=queue.name))

    def test_a_class_of_the_main_module_in_a_spawned_process(self, plant: Path) -> None:
        program = """
import multiprocessing
from enum import Enum
from pydotcompute import message
from pydotcompute.ring_kernels.shared_queue import SharedQueue

class Unit(Enum):
    BAR = 1

@message
class Pressure:
    value: int
    unit: Unit

def send(queue):
    import gauges_a
    queue.put(Pressure(3, Unit.BAR))
    queue.close()

if __name__ == "__main__":
    queue = SharedQueue.create(capacity=4, slot_size=1000)
    child = multiprocessing.get_context("spawn").Process(target=send, args=(queue,))
    child.start()
    received = queue.get(timeout=60)
    child.join()
    print(type(received) is Pressure, received.unit is Unit.BAR)
"""
        assert run(plant, program) == "True True"

    def test_the_error_for_a_value_of_an_unknown_class_names_it(self, plant: Path) -> None:
        program = """
import enum, sys
from pydotcompute import message

class Unit(enum.Enum):
    BAR = 1

@message
class Pressure:
    unit: object

print(Pressure(Unit.BAR).serialize().hex())
"""
        data = bytes.fromhex(run(plant, program, "pressures.py"))

        @message
        class Pressure:
            unit: object

        with pytest.raises(
            MessageDeserializationError, match="field 'unit': this process has no class 'pressures:Unit'; import the module"
        ):
            Pressure.deserialize(data)
