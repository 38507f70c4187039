"""Runs the commands that users know, from the root of the repository, in a fresh environment after ``pip install -e '.[dev]'``.

    python tests/commands.py                  # every command; the six runs of pytest take a quarter of an hour
    python tests/commands.py --quick          # pytest only collects: what CI runs
    python tests/commands.py --benchmarks     # the benchmarks without arguments too, instead of with --quick
    python tests/commands.py --only mkdocs    # commands that contain a text
    python tests/commands.py --environment .venv   # in an environment that has the package already

It prints how long each command took, and the end of the output of each that failed. The exit status is 0 if all work, 1 if one does not,
and 2 if there is no environment to run them in.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Limits far above what a command takes, so that only one that hangs reaches them.
INSTALL_LIMIT_S = 3600
COMMAND_LIMIT_S = 1800
SERVE_LIMIT_S = 180
# The page needs mkdocstrings, which reads the package, and contains this class.
PAGE, CLASS_OF_PAGE = "api/runtime/", "RingKernelRuntime"
OUTPUT_LINES = 30


@dataclass(frozen=True)
class Command:
    """A command as users type it.

    Attributes:
        text: The command.
        quick_arguments: What ``--quick`` appends to it.
        expected: A text that its output must contain.
    """

    text: str
    quick_arguments: str = ""
    expected: str = ""


COLLECT = "--collect-only --quiet"
SERVE = Command("mkdocs serve")
COMMANDS = (
    Command("pytest", COLLECT),
    Command("pytest --cov=pydotcompute", COLLECT),
    Command("pytest tests/unit/", COLLECT),
    Command('pytest -m "not cuda"', COLLECT),
    Command('pytest -m "not metal"', COLLECT),
    Command('pytest -m "not slow"', COLLECT),
    Command("mypy pydotcompute"),
    Command("ruff check pydotcompute"),
    SERVE,
    Command("python setup_cython.py build_ext --inplace", expected="nothing to compile"),
)


def benchmarks(root: Path) -> list[Command]:
    """Returns a command for each benchmark."""
    return [Command(f"python benchmarks/{path.name}") for path in sorted((root / "benchmarks").glob("[!_]*.py"))]


class Environment:
    """A virtual environment, in which commands run as in a shell that has activated it.

    Args:
        folder: The folder of the environment.
        root: The folder in which commands run.
    """

    def __init__(self, folder: Path, root: Path = ROOT) -> None:
        self._folder = folder.absolute()
        self._root = root
        others = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        path = os.pathsep.join([str(self._folder / "bin"), os.environ.get("PATH", os.defpath)])
        # Silences an advertisement of the theme of the documentation.
        self._variables = {**others, "PATH": path, "VIRTUAL_ENV": str(self._folder), "NO_MKDOCS_2_WARNING": "1"}

    def start(self, text: str) -> subprocess.Popen[str]:
        """Starts a command of this environment. Its output, errors included, goes to a pipe."""
        name, *arguments = shlex.split(text)
        program = self._folder / "bin" / name
        if not program.exists():
            raise FileNotFoundError(f"`{name}` is not installed by the extra `dev`")
        return subprocess.Popen(
            [str(program), *arguments],
            cwd=self._root,
            env=self._variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, text: str, limit_s: float = COMMAND_LIMIT_S) -> tuple[int, str]:
        """Runs a command. Returns its exit status and its output.

        Raises:
            TimeoutError: It did not end within the limit; it has been ended, with the processes that it started.
        """
        process = self.start(text)
        try:
            output, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            raise TimeoutError(f"it did not end within {limit_s} s; the end of its output:\n{last_lines(output)}") from None
        return process.returncode, output


def last_lines(output: str) -> str:
    """Returns the end of an output, indented."""
    return "\n".join(f"    {line}" for line in output.splitlines()[-OUTPUT_LINES:])


def check_command(environment: Environment, command: Command, arguments: str) -> str | None:
    """Runs a command. Returns what is wrong, or ``None``."""
    status, output = environment.run(f"{command.text} {arguments}")
    if status != 0:
        return f"exit status {status}; the end of its output:\n{last_lines(output)}"
    if command.expected not in output:
        return f"its output does not contain {command.expected!r}:\n{last_lines(output)}"
    return None


def check_serve(environment: Environment) -> str | None:
    """Starts the server of the documentation, fetches a page and stops it. Returns what is wrong, or ``None``."""
    port = free_port()
    process = environment.start(f"{SERVE.text} --dev-addr 127.0.0.1:{port}")
    try:
        page = fetch(f"http://127.0.0.1:{port}/{PAGE}", process)
    finally:
        # As a user stops it. All its output fits into the pipe, so that it never waits for a reader.
        process.send_signal(signal.SIGINT)
        try:
            output, _ = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
    if page is None:
        return f"it served no page within {SERVE_LIMIT_S} s, or ended; the end of its output:\n{last_lines(output)}"
    return None if CLASS_OF_PAGE in page else f"the page {PAGE} does not contain {CLASS_OF_PAGE}:\n{last_lines(output)}"


def fetch(address: str, server: subprocess.Popen[str]) -> str | None:
    """Fetches a page as soon as the server serves it. Returns ``None`` once the server has ended, or after the limit."""
    deadline = time.monotonic() + SERVE_LIMIT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=SERVE_LIMIT_S) as response:
                return str(response.read().decode())
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    return None


def free_port() -> int:
    """Returns a port of this machine that was free just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def has_quick_option(environment: Environment, benchmark: Command) -> bool:
    """Whether a benchmark can run for a few seconds."""
    return "--quick" in environment.run(f"{benchmark.text} --help")[1]


def checks(
    environment: Environment, root: Path, *, quick: bool, whole_benchmarks: bool, only: str
) -> Iterator[tuple[str, Callable[[], str | None]]]:
    """Yields the commands, as they will run, with the function that runs each."""
    for command in COMMANDS:
        arguments = command.quick_arguments if quick else ""
        if only in command.text:
            run = partial(check_serve, environment) if command is SERVE else partial(check_command, environment, command, arguments)
            yield f"{command.text} {arguments}".strip(), run
    for command in benchmarks(root):
        if only in command.text:
            arguments = "--quick" if not whole_benchmarks and has_quick_option(environment, command) else ""
            yield f"{command.text} {arguments}".strip(), partial(check_command, environment, command, arguments)


def run_checks(all_checks: Iterator[tuple[str, Callable[[], str | None]]]) -> bool:
    """Runs the commands and prints what became of each. Returns whether there are commands and all work."""
    count, failed = 0, 0
    for text, check in all_checks:
        start = time.monotonic()
        try:
            problem = check()
        except (FileNotFoundError, TimeoutError) as error:
            problem = str(error)
        print(f"{'FAILED' if problem else 'ok':>6} {time.monotonic() - start:7.1f} s  {text}", flush=True)
        if problem:
            print(f"  {problem}", flush=True)
        count, failed = count + 1, failed + (problem is not None)
    print(f"{count - failed} of {count} commands work")
    return failed == 0 and count > 0


@contextmanager
def fresh_environment(root: Path) -> Iterator[Path]:
    """Creates an environment in a temporary folder and installs the package there, in editable mode with the extra ``dev``.

    Raises:
        subprocess.CalledProcessError: pip failed; it has printed why.
    """
    with tempfile.TemporaryDirectory(prefix="pydotcompute-commands-") as name:
        print(f"creating an environment in {name} with pip install -e '.[dev]'", flush=True)
        subprocess.run([sys.executable, "-m", "venv", name], check=True, timeout=INSTALL_LIMIT_S)
        pip = [f"{name}/bin/python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--editable", ".[dev]"]
        subprocess.run(pip, cwd=root, check=True, timeout=INSTALL_LIMIT_S)
        yield Path(name)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the commands that users know, in a fresh environment.")
    parser.add_argument("--quick", action="store_true", help="pytest only collects the tests")
    parser.add_argument("--benchmarks", action="store_true", help="run the benchmarks without arguments, instead of with --quick")
    parser.add_argument("--only", default="", metavar="TEXT", help="run only the commands that contain this text")
    parser.add_argument("--environment", type=Path, metavar="FOLDER", help="use this environment instead of a fresh one")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="FOLDER", help="root of the repository (%(default)s)")
    options = parser.parse_args(arguments)
    if not any(options.only in command.text for command in (*COMMANDS, *benchmarks(options.root))):
        parser.error(f"no command contains {options.only!r}")

    def run_in(folder: Path) -> int:
        environment = Environment(folder, options.root)
        chosen = checks(environment, options.root, quick=options.quick, whole_benchmarks=options.benchmarks, only=options.only)
        return 0 if run_checks(chosen) else 1

    if options.environment is not None:
        return run_in(options.environment)
    try:
        with fresh_environment(options.root) as folder:
            return run_in(folder)
    except subprocess.SubprocessError as error:
        print(f"creating the environment failed: {error}")
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
