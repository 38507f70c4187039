"""The public API of 0.2 exists, with the same parameters and defaults."""

from __future__ import annotations

import abc
import builtins
import enum
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pydotcompute.exceptions
from api_names import PENDING, Name, names


def named(*kinds: str) -> pytest.MarkDecorator:
    """Parametrizes a test with each name of the given kinds."""
    chosen = [name for name in names() if name.kind in kinds and name.module not in PENDING]
    return pytest.mark.parametrize("name", chosen, ids=lambda name: f"{name.module}.{name.name}")


def test_the_list_is_complete_and_contains_pending_modules() -> None:
    all_names = list(names())
    assert len(all_names) == 718
    assert all_names == list(dict.fromkeys(all_names))
    assert {name.module for name in all_names} >= PENDING


@named("export")
def test_exports(name: Name) -> None:
    module = name.imported()
    assert hasattr(module, name.name)
    assert name.name in module.__all__


@named("class")
def test_classes_and_bases(name: Name) -> None:
    cls = getattr(name.imported(), name.name)
    assert inspect.isclass(cls)
    for base in filter(None, name.rest.split(", ")):
        if base == "Generic":
            assert hasattr(cls, "__class_getitem__"), "the class must be subscriptable with its message types"
        else:
            namespaces = (name.imported(), pydotcompute.exceptions, enum, abc, builtins)
            assert issubclass(cls, next(getattr(namespace, base) for namespace in namespaces if hasattr(namespace, base)))


@named("member")
def test_members_of_enumerations(name: Name) -> None:
    member = name.owner()[name.last]
    assert name.rest == "" or member.value == int(name.rest)


def default_of(name: Name) -> Any:
    """Evaluates the default of a listed name in the namespace of its module."""
    return eval(name.rest, {"np": np, **vars(name.imported())})


@named("field")
def test_fields_accept_keywords_and_have_their_defaults(name: Name) -> None:
    parameter = inspect.signature(name.owner()).parameters[name.last]
    assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    if name.rest == "":
        assert parameter.default is parameter.empty
    elif name.rest == "<factory>":
        assert parameter.default is not parameter.empty
    else:
        assert parameter.default == default_of(name)


def test_fields_are_in_order() -> None:
    orders: dict[Any, list[str]] = {}
    for name in names():
        if name.kind == "field" and name.module not in PENDING:
            orders.setdefault(name.owner(), []).append(name.last)
    for cls, order in orders.items():
        parameters = inspect.signature(cls).parameters.values()
        # Keyword-only fields may be in any order.
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name in order]
        assert positional == [field for field in order if field in positional], cls


@named("property")
def test_properties(name: Name) -> None:
    cls = name.owner()
    static = inspect.getattr_static(cls, name.last, None)
    annotated = any(name.last in vars(base).get("__annotations__", {}) for base in cls.__mro__)
    assert inspect.isdatadescriptor(static) or annotated, f"{name.name} is {static!r}"


@named("method", "abstract method", "classmethod", "function", "async method", "async context")
def test_parameters(name: Name) -> None:
    wanted = signature_of(name)
    if name.last == "__new__":
        assert callable(name.owner())
        return
    if name.last == "__init__":
        actual = inspect.signature(name.owner())
        wanted = wanted.replace(parameters=list(wanted.parameters.values())[1:])
    else:
        static = name.static()
        actual = inspect.signature(static.__func__ if isinstance(static, (classmethod, staticmethod)) else static)
    complaint = difference(wanted, actual)
    assert complaint is None, f"{name.name}{name.rest} has become {actual}: {complaint}"


def signature_of(name: Name) -> inspect.Signature:
    space: dict[str, Any] = {"np": np, **vars(name.imported())}
    exec(f"def listed{name.rest}: ...", space)
    return inspect.signature(space["listed"])


def difference(wanted: inspect.Signature, actual: inspect.Signature) -> str | None:
    """Returns why a call that is valid for `wanted` could fail or differ for `actual`, or ``None``."""
    parameters = list(actual.parameters.values())
    for position, parameter in enumerate(wanted.parameters.values()):
        found = actual.parameters.get(parameter.name)
        if parameter.name == "self" and parameters and position == 0:
            continue  # A method in Rust may use another name, and takes it positionally only.
        if found is None:
            return f"{parameter.name} is missing"
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and (found.kind is not parameter.kind or parameters.index(found) != position):
            return f"{parameter.name} cannot be given both by name and as argument {position + 1}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and found.kind is not parameter.kind:
            return f"{parameter.name} takes one value"
        if parameter.default is not parameter.empty and not same(parameter.default, found.default):
            return f"{parameter.name} is {found.default!r} unless given, not {parameter.default!r}"
    for found in parameters[1:] if "self" in wanted.parameters else parameters:
        optional = found.default is not found.empty or found.kind in (found.VAR_POSITIONAL, found.VAR_KEYWORD)
        if found.name not in wanted.parameters and not optional:
            return f"{found.name} is required"
    return None


def same(first: object, second: object) -> bool:
    return type(first) is type(second) and first == second


@named("abstract method")
def test_abstract_methods_are_abstract(name: Name) -> None:
    assert name.static().__isabstractmethod__


@named("classmethod")
def test_class_methods_are_bound_to_the_class(name: Name) -> None:
    assert inspect.ismethod(getattr(name.owner(), name.last)) or inspect.isbuiltin(getattr(name.owner(), name.last))


@named("async method")
def test_async_methods_are_awaitable(name: Name) -> None:
    static = name.static()
    if not (inspect.iscoroutinefunction(static) or inspect.ismethoddescriptor(static)):
        # The method returns a coroutine of the Rust extension.
        assert str(inspect.signature(static).return_annotation).startswith("Coroutine[")


@named("async context")
def test_async_contexts_are_context_managers(name: Name) -> None:
    assert not inspect.iscoroutinefunction(name.static())


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        (lambda self, a, b=1, *, c=2: 0, None),
        (lambda self, a, b=1, *, c=2, d=3: 0, None),
        (lambda self, a, b=1, c=2: 0, None),
        (lambda self, a, *, c=2: 0, "b is missing"),
        (lambda self, b=1, a=0, *, c=2: 0, "a cannot be given both"),
        (lambda self, a, b=2, *, c=2: 0, "b is 2 unless given, not 1"),
        (lambda self, a, b=True, *, c=2: 0, "b is True unless given, not 1"),
        (lambda self, a, b=1, *, c=2, d: 0, "d is required"),
        (lambda self, a, *b, c=2: 0, "b cannot be given both"),
    ],
)
def test_a_changed_signature_is_reported(changed: Callable[..., object], complaint: str | None) -> None:
    wanted = inspect.signature(lambda self, a, b=1, *, c=2: 0)
    found = difference(wanted, inspect.signature(changed))
    assert found is complaint if complaint is None else complaint in str(found)
