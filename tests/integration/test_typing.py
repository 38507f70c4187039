"""Programs of users pass ``mypy --strict``: one that uses every public name, and some with errors that mypy must find."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from api_names import PENDING, names

PROGRAM = Path(__file__).parent / "typing/user_program"


HANDLES = sorted((Path(__file__).parent / "typing/typed_handles").glob("*.py"))


def run_mypy(files: list[Path], cache: str) -> subprocess.CompletedProcess[str]:
    # Without the settings of this project, as in the project of a user.
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", f".mypy_cache/{cache}", *map(str, files)]
    return subprocess.run(command, check=False, cwd=PROGRAM.parents[3], capture_output=True, text=True, timeout=110)


def file_of(module: str) -> Path:
    """Returns the file of the user program for a module."""
    return PROGRAM / f"{module.removeprefix('pydotcompute').removeprefix('.').replace('.', '_') or 'root'}.py"


def words_in(file: Path) -> set[str]:
    """Returns every name, attribute and keyword in the code of a file, without those in its strings."""
    words: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Name):
            words.add(node.id)
        elif isinstance(node, ast.Attribute):
            words.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg is not None:
            words.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            words.add(node.name)
    return words


@pytest.mark.parametrize("module", sorted({name.module for name in names()}))
def test_the_program_uses_every_name(module: str) -> None:
    wanted = {name.last for name in names() if name.module == module}
    # Other special methods are called implicitly, e.g. by `with` and `len`.
    wanted = {name for name in wanted if not name.startswith("__") or name == "__version__"}
    assert wanted - words_in(file_of(module)) == set()


def test_the_program_passes_mypy() -> None:
    run = run_mypy([file_of(module) for module in sorted({name.module for name in names()} - PENDING)], "user_program")
    assert run.returncode == 0, run.stdout + run.stderr


def test_handles_and_messages_have_their_types() -> None:
    """Types that are not as asserted, and errors that mypy does not find (an unused ``type: ignore``), fail."""
    run = run_mypy(HANDLES, "typed_handles")
    assert run.returncode == 0, run.stdout + run.stderr
