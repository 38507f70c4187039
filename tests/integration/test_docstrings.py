"""Every example in a docstring of the package runs and prints its expected output."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import pydotcompute
from pydotcompute.compilation import cache as cache_module
from pydotcompute.compilation.cache import KernelCache
from pydotcompute.ring_kernels.message import _message_registry
from pydotcompute.ring_kernels.runtime import _kernel_registry


def examples() -> list[Any]:
    """Returns the docstrings with examples of every module that can be imported on this machine."""
    found = []
    for about in pkgutil.walk_packages(pydotcompute.__path__, "pydotcompute."):
        try:
            module = importlib.import_module(about.name)
        except ImportError as error:
            assert error.name is not None and not error.name.startswith("pydotcompute"), error
            continue
        tests = doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs={"np": np})
        found += [pytest.param(test, id=test.name) for test in tests if test.examples]
    return found


@pytest.mark.parametrize("example", examples())
def test_examples_of_docstrings(example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Runs as a script of a user, not as a part of the documented module.
    script = ModuleType("script")
    script.__dict__.update({name: value for name, value in example.globs.items() if name not in ("__name__", "annotations")})
    monkeypatch.setitem(sys.modules, "script", script)
    example.globs = script.__dict__
    for registry in (_message_registry, _kernel_registry):  # An example may register a name that another test uses.
        for name in registry:
            monkeypatch.setitem(registry, name, registry[name])
    monkeypatch.setattr(cache_module, "_global_cache", KernelCache(tmp_path))
    report: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(example, out=report.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(report)
