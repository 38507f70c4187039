"""What `help` shows: every example in a docstring runs and prints its expected output, every public function documents its parameters, and
names and errors are those of the classes that users know."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from pydotcompute.ring_kernels.shared_queue import SharedQueue


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


@dataclass(frozen=True)
class Member:
    """A public function, or a method or property of a public class."""

    name: str
    attribute: Any
    owner: type | None

    @property
    def function(self) -> Any:
        """The attribute, without its binding to a class."""
        return getattr(self.attribute, "__func__", self.attribute)

    @property
    def is_function(self) -> bool:
        return callable(self.function) and not inspect.isclass(self.function)

    @property
    def qualified_name(self) -> str:
        """The name that `help` and errors show."""
        return str(getattr(getattr(self.attribute, "fget", self.function), "__qualname__", self.name))

    def parameters(self) -> list[inspect.Parameter]:
        return [p for p in inspect.signature(self.function).parameters.values() if p.name not in ("self", "cls")]


def public_modules() -> Iterator[ModuleType]:
    """Yields the modules of the package that users import."""
    for about in pkgutil.walk_packages(pydotcompute.__path__, "pydotcompute."):
        if not any(part.startswith("_") and part != "_cython" for part in about.name.split(".")):
            yield importlib.import_module(about.name)


def public_objects() -> Iterator[tuple[str, Any]]:
    """Yields the classes and functions that the modules of the package export, each once."""
    seen = set()
    for module in [pydotcompute, *public_modules()]:
        for name in getattr(module, "__all__", ()):
            exported = getattr(module, name)
            ours = str(getattr(exported, "__module__", "")).startswith("pydotcompute")
            if ours and callable(exported) and id(exported) not in seen:
                seen.add(id(exported))
                # A class may have an alias.
                yield exported.__name__ if inspect.isclass(exported) else name, exported


def members() -> Iterator[Member]:
    """Yields the public functions, and the public methods and properties of the public classes, inherited ones included."""
    for name, exported in public_objects():
        if not inspect.isclass(exported):
            yield Member(name, exported, None)
            continue
        for attribute in dir(exported):
            cls = next((cls for cls in exported.__mro__ if attribute in vars(cls)), object)
            static = inspect.getattr_static(exported, attribute)
            if not attribute.startswith("_") and cls.__module__.startswith("pydotcompute"):
                member = Member(f"{name}.{attribute}", static, exported)
                # Other attributes are the defaults of dataclasses' fields and the members of enumerations.
                if member.is_function or inspect.isdatadescriptor(static):
                    yield member


ALL = [*members()]
PUBLIC_NAMES = {name for name, _ in public_objects()}
functions = pytest.mark.parametrize("member", [member for member in ALL if member.is_function], ids=lambda member: member.name)


def test_the_public_api_was_found() -> None:
    names = {member.name for member in ALL}
    assert len(names) > 350
    assert names >= {"RingKernelRuntime.send", "RingKernelRuntime.launch", "KernelContext.receive", "message", "SyncQueue.put"}


def section(text: str, title: str) -> str:
    """Returns the indented lines below a title of a docstring."""
    found = re.search(rf"^{title}:\n((?:[ ]+.*\n?|\n)*)", text, re.MULTILINE)
    return found[1] if found else ""


@pytest.mark.parametrize("member", ALL, ids=lambda member: member.name)
def test_everything_public_has_a_text(member: Member) -> None:
    assert inspect.getdoc(member.function)


@functions
def test_a_text_names_each_parameter(member: Member) -> None:
    arguments = section(inspect.getdoc(member.function) or "", "Args")
    missing = [p.name for p in member.parameters() if not re.search(rf"^\s+\**{p.name}:", arguments, re.MULTILINE)]
    assert not missing


@pytest.mark.parametrize("member", ALL, ids=lambda member: member.name)
def test_names_are_those_of_public_classes(member: Member) -> None:
    owner, _, _ = member.qualified_name.rpartition(".")
    assert owner == "" or owner in PUBLIC_NAMES, member.qualified_name


@functions
def test_the_error_of_a_wrong_call_names_the_function(member: Member) -> None:
    kinds = {p.kind for p in member.parameters()}
    if kinds >= {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        pytest.skip("accepts all arguments")
    call: Callable[..., Any] = member.function
    if inspect.ismethoddescriptor(call):
        if member.owner in (None, SharedQueue):
            pytest.skip("needs an object that holds resources")
        call = getattr(member.owner.__new__(member.owner), member.name.rpartition(".")[2])  # type: ignore[union-attr]
    with pytest.raises(TypeError) as caught:
        call(*range(30), no_such_parameter=1)
    # For a method without parameters, the extension names the class of the object.
    text = str(caught.value)
    assert text.startswith((f"{member.function.__qualname__}()", f"{member.name}()"))
    assert "takes 1 positional arguments" not in text


def takes_one(member: Member) -> bool:
    """Whether it is a method of the extension with one positional parameter."""
    positional = [p for p in member.parameters() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    return inspect.ismethoddescriptor(member.function) and len(positional) == 1 and positional[0].default is inspect.Parameter.empty


@pytest.mark.parametrize("member", [m for m in ALL if m.is_function and takes_one(m)], ids=lambda member: member.name)
def test_the_error_of_a_second_argument(member: Member) -> None:
    if member.owner is SharedQueue:
        pytest.skip("needs an object that holds resources")
    method = getattr(member.owner.__new__(member.owner), member.name.rpartition(".")[2])  # type: ignore[union-attr]
    first = {"kernel_id": "k", "messages": [], "error": "text"}.get(member.parameters()[0].name, 1)
    for second in (2, None):
        with pytest.raises(TypeError) as caught:
            method(first, second)
        assert str(caught.value) == f"{member.name}() takes 1 positional argument but 2 were given"


def declared_for_type_checkers() -> Iterator[tuple[str, Any, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yields the methods that a public class declares for type checkers only: name, class, declaration."""
    for module in public_modules():
        for cls in ast.parse(inspect.getsource(module)).body:
            blocks = [block for block in getattr(cls, "body", ()) if isinstance(block, ast.If)]
            for block in blocks if isinstance(cls, ast.ClassDef) else ():
                for declaration in block.body if ast.unparse(block.test) == "TYPE_CHECKING" else ():
                    if isinstance(declaration, (ast.FunctionDef, ast.AsyncFunctionDef)):
                        yield f"{cls.name}.{declaration.name}", getattr(module, cls.name), declaration


DECLARED = [pytest.param(*declared, id=declared[0]) for declared in declared_for_type_checkers()]


@pytest.mark.parametrize(("name", "cls", "declaration"), DECLARED)
def test_what_type_checkers_see_exists_and_has_the_same_parameters(
    name: str, cls: type, declaration: ast.FunctionDef | ast.AsyncFunctionDef
) -> None:
    static = inspect.getattr_static(cls, declaration.name)
    if inspect.isdatadescriptor(static):
        assert "property" in {ast.unparse(decorator) for decorator in declaration.decorator_list}
        return
    scope: dict[str, Any] = {}
    exec(f"def declared({ast.unparse(declaration.args)}): ...", {"__future__": None, **vars(sys.modules[cls.__module__]), **scope}, scope)
    wanted, actual = (
        [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()][1:]
        for function in (scope["declared"], static)
    )
    assert actual == wanted
    if not name.rpartition(".")[2].startswith("__"):  # Python documents its operators itself.
        assert inspect.getdoc(static) == ast.get_docstring(declaration)


HANDED_OVER = [
    *(f"KernelContext.{method}" for method in ("send", "reply")),
    *(f"RingKernel.{method}" for method in ("send", "ask")),
    *(f"NativeRingKernel.{method}" for method in ("send", "ask")),
    *(f"NativeKernel.{method}" for method in ("tell", "tell_async", "ask", "ask_async")),
    *(f"RingKernelRuntime.{method}" for method in ("send", "send_and_receive")),
    *(
        f"{tier}.{method}"
        for tier in ("ThreadedRingKernel", "CythonRingKernel", "CythonKernelContext")
        for method in ("send", "send_nowait")
    ),
    *("ThreadedKernelContext.send", "ThreadedKernelPool.send"),
    *(f"{queue}.{method}" for queue in ("MessageQueue", "FastMessageQueue", "RingBuffer") for method in ("put", "put_nowait", "put_batch")),
    *(f"{queue}.{method}" for queue in ("SyncQueue", "SPSCQueue", "SharedQueue") for method in ("put", "put_nowait")),
    *(f"FastSPSCQueue.{method}" for method in ("put", "put_wait")),
]


@pytest.mark.parametrize("name", HANDED_OVER)
def test_a_text_says_that_a_sent_message_is_handed_over(name: str) -> None:
    (member,) = (member for member in ALL if member.name == name)
    text = " ".join((inspect.getdoc(member.function) or "").split())
    assert "handed over" in text
    assert re.search(r"neither side changes (it|them) afterwards", text)
