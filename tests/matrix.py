"""Runs tests of a built wheel on every CPython of this machine, with the oldest and the newest NumPy that the package allows.

    python tests/matrix.py dist/pydotcompute-0.3.0-cp311-abi3-linux_x86_64.whl

Interpreters are found on ``PATH`` and among pyenv's versions. Each cell, an interpreter with a NumPy, is a virtual environment in a folder
that later runs use again. One cell also runs under coverage, which traces every line. The default is a choice of tests that depend on the
versions: array fields, messages, asyncio, and the private names that the package uses, on the newest patch version of each minor version.
``--full`` runs all tests on every version.

The last lines say what ran, and with which versions. The exit status is 1 if a cell failed, or if there is no interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from uv import find_uv_bin

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"

SUBSET = (
    "unit/test_asyncio_private_names.py",
    "unit/test_type_aliases.py",
    "unit/ring_kernels/test_message.py",
    "unit/ring_kernels/test_lifecycle.py",
    "unit/native/test_native_runtime.py",
    "unit/native/test_native_cpu.py::test_arrays_and_narrow_numbers_are_passed_both_ways",
    "unit/native/test_native_cpu.py::test_replies_are_messages_and_the_state_persists",
)
# What the subset imports. `--full` installs the extra `dev` of the wheel.
PACKAGES = ("pytest>=8.4", "pytest-asyncio>=1.2", "pytest-timeout>=2.4", "hypothesis>=6", "psutil>=6")
NUMBA = "numba>=0.62"
# Lines of NumPy, oldest first; the first of which an interpreter has a wheel is its oldest.
NUMPY_LINES = ("1.26", "2.0", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "2.7")

_DESCRIBE = """
import json, platform, sys
print(json.dumps([platform.python_implementation(), list(sys.version_info[:3]), getattr(sys, "_is_gil_enabled", lambda: True)()]))
"""
_VERSIONS = """
import json
from importlib.metadata import PackageNotFoundError, version
import pydotcompute
def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None
print(json.dumps({"numpy": installed("numpy"), "numba": installed("numba"), "file": pydotcompute.__file__}))
"""


class CellError(Exception):
    """A cell could not be prepared."""


@dataclass(frozen=True)
class Interpreter:
    """A CPython.

    Attributes:
        path: The program.
        version: Major, minor and patch version.
    """

    path: Path
    version: tuple[int, int, int]

    @property
    def name(self) -> str:
        return ".".join(map(str, self.version))


@dataclass
class Cell:
    """An interpreter with a NumPy, and what came of it."""

    interpreter: Interpreter
    which: str
    covered: bool = False
    versions: dict[str, str | None] = field(default_factory=dict)
    summary: str = "did not run"
    output: str = ""
    succeeded: bool = False
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return f"CPython {self.interpreter.name}, {self.which} NumPy" + (", with coverage" if self.covered else "")


def find_interpreters(minimum: tuple[int, int]) -> list[Interpreter]:
    """Returns each version of CPython that this machine offers, oldest first.

    Args:
        minimum: Oldest version that the package supports.
    """
    pattern = re.compile(r"python3(\.\d+)?")
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir()) if pattern.fullmatch(path.name)]
    candidates += sorted(pyenv.glob("versions/*/bin/python3"))
    found: dict[tuple[int, ...], Interpreter] = {}
    for path in dict.fromkeys(candidates):
        interpreter = _interpreter(path)
        if interpreter is not None and interpreter.version[:2] >= minimum:
            found.setdefault(interpreter.version, interpreter)
    return [found[version] for version in sorted(found)]


def _interpreter(path: Path) -> Interpreter | None:
    try:
        done = subprocess.run([path, "-I", "-c", _DESCRIBE], capture_output=True, text=True, timeout=20, check=True)
        implementation, version, has_gil = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None  # For example a shim of pyenv for a version that is not selected.
    return Interpreter(path, tuple(version)) if implementation == "CPython" and has_gil else None


def run(command: list[str | Path], **settings: object) -> str:
    """Runs a program and returns its output.

    Raises:
        CellError: It failed.
    """
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **settings)  # type: ignore[call-overload]
    if done.returncode != 0:
        raise CellError(f"{' '.join(map(str, command))}\n{done.stdout}")
    output: str = done.stdout
    return output


class Matrix:
    """The cells of one wheel."""

    def __init__(self, wheel: Path, folder: Path, full: bool, only: str) -> None:
        self._wheel = wheel
        self._folder = folder
        self._full = full
        self._only = only
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        self.minimum: tuple[int, int] = tuple(map(int, project["requires-python"].removeprefix(">=").split(".")))  # type: ignore[assignment]
        (numpy,) = (requirement for requirement in project["dependencies"] if requirement.startswith("numpy"))
        self._numpy = numpy
        self._oldest_line = numpy.removeprefix("numpy>=")

    def cells(self) -> list[Cell]:
        """Returns the cells; the last is the newest interpreter once more, under coverage."""
        interpreters = [found for found in find_interpreters(self.minimum) if f"{found.name}.".startswith(f"{self._only}.".lstrip("."))]
        if not self._full:
            interpreters = list({interpreter.version[:2]: interpreter for interpreter in interpreters}.values())
        cells = [Cell(interpreter, which) for interpreter in interpreters for which in ("oldest", "newest")]
        return [*cells, *(Cell(interpreter, "newest", covered=True) for interpreter in interpreters[-1:])]

    def run_all(self, cells: list[Cell], jobs: int) -> None:
        """Runs the cells, some at a time. The cell under coverage shares an environment, so it waits for the others."""
        for group in ([cell for cell in cells if not cell.covered], [cell for cell in cells if cell.covered]):
            with ThreadPoolExecutor(jobs) as pool:
                list(pool.map(self._run, group))

    def _run(self, cell: Cell) -> None:
        started = time.monotonic()
        try:
            python = self._prepare(cell)
            self._test(cell, python)
        except CellError as error:
            cell.summary, cell.output = "could not be prepared", str(error)
        cell.seconds = time.monotonic() - started
        print(f"{'ok    ' if cell.succeeded else 'FAILED'} {describe(cell)}", flush=True)

    def _prepare(self, cell: Cell) -> Path:
        """Creates the environment, or finds it, and installs the wheel."""
        folder = self._folder / f"cpython-{cell.interpreter.name}-{cell.which}-numpy{'-full' if self._full else ''}"
        python = folder / "bin" / "python"
        complete = folder / "complete"
        if complete.exists():
            self._pip_install(python, "--force-reinstall", "--no-deps", str(self._wheel))
        else:
            shutil.rmtree(folder, ignore_errors=True)
            run([cell.interpreter.path, "-m", "venv", "--without-pip", folder])
            self._install(python, cell.which)
            complete.touch()
        if cell.covered:
            self._pip_install(python, "pytest-cov>=6")
        cell.versions = json.loads(run([python, "-P", "-c", _VERSIONS], cwd=folder))
        if not Path(cell.versions["file"] or "").is_relative_to(folder):
            raise CellError(f"the tests would import {cell.versions['file']}, which is not the wheel's")
        return python

    def _install(self, python: Path, which: str) -> None:
        """Installs the wheel, NumPy and what the tests need: with Numba or, for an interpreter newer than Numba, without."""
        packages = [f"{self._wheel}[dev]"] if self._full else [str(self._wheel), *PACKAGES]
        lines = NUMPY_LINES[NUMPY_LINES.index(self._oldest_line) :]
        versions = [f"numpy=={line}{patch}" for line in lines for patch in (".0", ".*")] if which == "oldest" else [self._numpy]
        failure: CellError | None = None
        for version in versions:
            try:
                self._pip_install(python, "--dry-run", "--no-deps", version)
            except CellError as error:
                failure = error
                continue  # There is no wheel of this version for this interpreter.
            for numba in ([NUMBA], []):
                try:
                    return self._pip_install(python, version, *numba, *packages)
                except CellError as error:
                    failure = error
        raise failure or CellError(f"{python}: no version of NumPy")

    def _pip_install(self, python: Path, *arguments: str) -> None:
        run([find_uv_bin(), "pip", "install", "--python", python, "--quiet", "--only-binary", ":all:", *arguments], timeout=600)

    def _test(self, cell: Cell, python: Path) -> None:
        tests = [TESTS / "unit", TESTS / "integration"] if self._full else [TESTS / test for test in SUBSET]
        command: list[str | Path] = [python, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml"]
        command += ["--rootdir", ROOT, *tests]
        if cell.covered:
            command += ["--cov=pydotcompute", "--cov-report="]
        folder = python.parents[1]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=3600
        )
        cell.output = done.stdout
        cell.succeeded = done.returncode == 0
        lines = [line.strip("= ") for line in done.stdout.splitlines() if re.search(r"\d+ (passed|failed|error)", line)]
        cell.summary = lines[-1] if lines else f"pytest ended with status {done.returncode}"


def describe(cell: Cell) -> str:
    """Returns what a cell ran, in one line."""
    numba = cell.versions.get("numba")
    libraries = f"NumPy {cell.versions.get('numpy', '?')}, {f'Numba {numba}' if numba else 'no Numba for this Python'}"
    return f"{cell.name}: {libraries}: {cell.summary} ({cell.seconds:.0f} s)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="the wheel to test")
    parser.add_argument("--folder", type=Path, default=ROOT / "target" / "matrix", help="folder of the environments")
    parser.add_argument("--full", action="store_true", help="run all tests")
    parser.add_argument("--only", default="", metavar="VERSION", help="run only this version of CPython, such as 3.13")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="number of cells to run at a time")
    parser.add_argument("--list", action="store_true", help="print the cells and run none")
    options = parser.parse_args()
    # The tests are to import the wheel's package.
    os.environ.pop("PYTHONPATH", None)
    matrix = Matrix(options.wheel.resolve(), options.folder.resolve(), options.full, options.only)
    cells = matrix.cells()
    if options.list:
        print("\n".join(cell.name for cell in cells))
        return 0
    if not cells:
        print(f"no CPython {'.'.join(map(str, matrix.minimum))} or later on PATH or in pyenv's folder", file=sys.stderr)
        return 1
    if not options.wheel.is_file():
        parser.error(f"{options.wheel} is no file; build it with `maturin build`, or name the wheel that `cargo xtask test` has built")
    options.folder.mkdir(parents=True, exist_ok=True)
    matrix.run_all(cells, options.jobs)
    for cell in cells:
        if not cell.succeeded:
            print(f"\n--- {cell.name}\n{cell.output}")
    names = {interpreter.name for interpreter in find_interpreters(matrix.minimum)} - {cell.interpreter.name for cell in cells}
    if names:
        print(f"\nnot run (see --full and --only): CPython {', '.join(sorted(names))}")
    print("\nran:")
    print("\n".join(f"  {describe(cell)}" for cell in cells))
    return 0 if all(cell.succeeded for cell in cells) else 1


if __name__ == "__main__":
    sys.exit(main())
