"""Reads the list of what users of 0.2 import and call."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

LIST = Path(__file__).with_name("api_names.txt")

# Modules that have not been written yet; the list only ever gets shorter.
PENDING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Name:
    """A line of the list."""

    kind: str
    module: str
    name: str
    rest: str

    def imported(self) -> ModuleType:
        return importlib.import_module(self.module)

    def owner(self) -> Any:
        """The class that a member belongs to, or the module."""
        within, _, _ = self.name.rpartition(".")
        return getattr(self.imported(), within) if within else self.imported()

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]

    def static(self) -> Any:
        """What stands under the name, without running a property."""
        return inspect.getattr_static(self.owner(), self.last)


def names() -> Iterator[Name]:
    for line in LIST.read_text().splitlines():
        if not line.startswith("#"):
            kind, module, name, *rest = line.split("\t")
            yield Name(kind, module, name, *rest or [""])
