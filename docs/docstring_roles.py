"""An extension of Griffe for `mkdocs.yml`: what docstrings say in their own way, said in the way that Griffe and Markdown know.

They name things as Sphinx does, ``:class:`~a.b.C```, and head their doctests with ``Example:``, where Griffe looks for ``Examples:``.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(?:py:)?(?:class|meth|func|mod|attr|exc|data|obj):`(~?)([^`]+)`")
_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


def _as_code(match: re.Match[str]) -> str:
    """The name as code: all of it, or its last part where it begins with a tilde."""
    shortened, name = match.groups()
    return f"`{name.rpartition('.')[2] if shortened else name}`"


class DocstringRoles(Extension):
    """Turns Sphinx's roles into code, and examples into sections of their own."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute when it is loaded.

        Args:
            obj: What was loaded.
        """
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub("Examples:", _ROLE.sub(_as_code, obj.docstring.value))
