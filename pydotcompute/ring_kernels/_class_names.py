"""Names of classes in serialized messages: ``module:qualified name``, as in entry points."""

from __future__ import annotations

import inspect
import sys
import weakref
from pathlib import Path
from typing import Any

# `multiprocessing` gives the main module of its parent this name.
_MAIN = ("__main__", "__mp_main__")

# The names of classes do not change once they were needed, also if another module becomes the main one.
_names: weakref.WeakKeyDictionary[type[Any], str] = weakref.WeakKeyDictionary()

# Classes that no module has as an attribute, such as those defined in a function: found again while they exist.
_local_classes: weakref.WeakValueDictionary[str, type[Any]] = weakref.WeakValueDictionary()


def _main_module() -> str:
    """Returns the name under which other modules would import the main module; ``__main__`` if it has no file."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else "__main__"


def is_in_main_module(cls: type[Any]) -> bool:
    """Whether a class is defined in the main module of this process."""
    return cls.__module__ in _MAIN


def qualified_name(cls: type[Any]) -> str:
    """Returns the name of a class with its module.

    Args:
        cls: The class.

    Returns:
        The module, a colon, and the qualified name. A class of the main module has the name that it has where the module is imported.
    """
    name = _names.get(cls)
    if name is None:
        module = _main_module() if is_in_main_module(cls) else cls.__module__
        name = _names[cls] = f"{module}:{cls.__qualname__}"
    return name


def remember(cls: type[Any]) -> str:
    """Returns the qualified name of a class, by which `find_class` finds it while it exists."""
    name = qualified_name(cls)
    _local_classes[name] = cls
    return name


def find_class(name: str) -> type[Any]:
    """Finds a class. Never imports a module, since the name comes from bytes.

    Args:
        name: The qualified name.

    Returns:
        The class.

    Raises:
        LookupError: No loaded module has the class.
    """
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    if found is None and module == _main_module():
        found = sys.modules.get("__main__")
    for part in path.split("."):
        # Static: the `__getattr__` of a module may import another one.
        found = inspect.getattr_static(found, part, None)
    if isinstance(found, type) and qualified_name(found) == name:
        return found
    try:
        return _local_classes[name]
    except KeyError:
        raise LookupError(f"this process has no class '{name}'; import the module that defines it before reading the message") from None
