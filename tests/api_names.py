"""Reads `api_names.txt`, the public API of pydotcompute 0.2."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

LIST = Path(__file__).with_name("api_names.txt")

# Modules of the list that do not exist yet. Modules are only removed from this set.
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
        """Returns the class of a member, or the module."""
        within, _, _ = self.name.rpartition(".")
        return getattr(self.imported(), within) if within else self.imported()

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]

    def static(self) -> Any:
        """Returns the attribute without evaluating a property."""
        return inspect.getattr_static(self.owner(), self.last)


def names() -> Iterator[Name]:
    for line in LIST.read_text().splitlines():
        if not line.startswith("#"):
            kind, module, name, *rest = line.split("\t")
            yield Name(kind, module, name, *rest or [""])
