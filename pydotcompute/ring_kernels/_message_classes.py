"""The message classes of this process."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, MutableMapping
from typing import Any

from pydotcompute.ring_kernels._class_names import is_in_main_module, qualified_name

__all__ = ["MAIN_MODULE", "MessageClasses", "class_mark"]

# Mark of the classes of a main module. Another process may have a copy of such a class, but cannot import the class itself.
MAIN_MODULE = 1


def class_mark(cls: type[Any]) -> int:
    """Returns the 32 bits that a shared queue carries beside a message, and that tell classes with the same bare name apart."""
    if is_in_main_module(cls):
        return MAIN_MODULE
    # 0 marks bytes that are not a message.
    return max(zlib.crc32(qualified_name(cls).encode()), MAIN_MODULE + 1)


class MessageClasses(MutableMapping[str, type[Any]]):
    """The message classes by qualified name. A look-up also takes the bare name of a class, and returns the one registered last.

    A class that is defined again under the same module and qualified name replaces its earlier definition. The mapping keeps its classes
    alive: whether bytes are readable must not depend on when garbage is collected.
    """

    def __init__(self) -> None:
        self._classes: dict[str, type[Any]] = {}
        self._by_name: dict[str, list[type[Any]]] = {}
        self._found: dict[tuple[str, int | None], type[Any]] = {}

    def register(self, cls: type[Any]) -> None:
        """Adds a class, or replaces its earlier definition."""
        qualified = qualified_name(cls)
        if self._classes.get(qualified) is not cls:
            self._discard(qualified)
            self._classes[qualified] = cls
            self._change(cls.__name__, [*self.named(cls.__name__), cls])

    def named(self, name: str) -> list[type[Any]]:
        """Returns the classes with a bare name, in order of registration."""
        return self._by_name.get(name, [])

    def written_name(self, cls: type[Any]) -> str:
        """Returns the name that messages of a class carry: the bare name, or the qualified name if another class has the same bare name."""
        qualified = qualified_name(cls)
        is_shared = any(qualified_name(other) != qualified for other in self.named(cls.__name__))
        return qualified if is_shared else cls.__name__

    def find(self, name: str, mark: int | None = None) -> type[Any]:
        """Finds the class that bytes name.

        Args:
            name: The bare or qualified name.
            mark: Mark of the sender's class; `None` if the transport carries none.

        Returns:
            The class.

        Raises:
            LookupError: This process has no such class, or several.
        """
        found = self._found.get((name, mark))
        if found is None:
            found = self._found[name, mark] = self._search(name, mark)
        return found

    def _search(self, name: str, mark: int | None) -> type[Any]:
        exact = self._classes.get(name)
        candidates = [exact] if exact is not None else self.named(name)
        same = [cls for cls in candidates if mark == class_mark(cls)]
        fitting = same or [cls for cls in candidates if mark in (None, MAIN_MODULE) or class_mark(cls) == MAIN_MODULE]
        if len(fitting) == 1:
            return fitting[0]
        existing = ", ".join(qualified_name(cls) for cls in candidates)
        if fitting:
            what_to_do = "call the deserialize of the one that is meant"
            raise LookupError(f"the bytes name the message class '{name}', and this process has several: {existing}; {what_to_do}")
        what_to_do = "import the module that defines it before reading the message"
        if candidates:
            raise LookupError(f"this process has no message class '{name}' of the sender's module, but {existing}; {what_to_do}")
        raise LookupError(f"this process has no message class '{name}'; {what_to_do}")

    def _discard(self, qualified: str) -> None:
        former = self._classes.pop(qualified, None)
        if former is not None:
            self._change(former.__name__, [cls for cls in self.named(former.__name__) if cls is not former])

    def _change(self, name: str, classes: list[type[Any]]) -> None:
        """Sets the classes with a bare name. Discards what depends on it: the codecs, which contain the names that are written."""
        for cls in {*self.named(name), *classes}:
            if "_codec" in cls.__dict__:
                del cls._codec
        self._by_name[name] = classes
        self._found.clear()

    def __getitem__(self, name: str) -> type[Any]:
        found = self._classes.get(name)
        if found is not None:
            return found
        classes = self.named(name)
        if not classes:
            raise KeyError(name)
        return classes[-1]

    def __setitem__(self, name: str, cls: type[Any]) -> None:
        self.register(cls)

    def __delitem__(self, name: str) -> None:
        self._discard(qualified_name(self[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._classes))

    def __len__(self) -> int:
        return len(self._classes)
