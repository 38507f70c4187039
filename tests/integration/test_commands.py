"""The program that runs the commands that users know: what it runs, and what it reports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import commands

PROGRAM = Path(commands.__file__)
# Stands for every program of the environment: succeeds, and prints its own command line.
ECHO = '#!/bin/sh\necho "$(basename "$0") $*"\n'
SERVER = """#!{python}
import http.server, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write({text!r}.encode())
try:
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[-1].rpartition(":")[2])), Page).serve_forever()
except KeyboardInterrupt:
    print("stopped")
"""


class Project:
    """A repository without content, and an environment whose programs are scripts."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        (self.root / "benchmarks").mkdir(parents=True)
        self.environment = folder / "environment"
        (self.environment / "bin").mkdir(parents=True)

    def install(self, name: str, text: str) -> None:
        """Adds a program to the environment."""
        path = self.environment / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def run(self, *arguments: str) -> tuple[int, str]:
        """Runs the program under test. Returns its exit status and its output."""
        options = ["--environment", str(self.environment), "--root", str(self.root), *arguments]
        done = subprocess.run([sys.executable, str(PROGRAM), *options], check=False, capture_output=True, text=True, timeout=100)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    for name in ("pytest", "mypy", "ruff"):
        project.install(name, ECHO)
    project.install("python", '#!/bin/sh\necho "--quick: nothing to compile"\n')
    project.install("mkdocs", SERVER.format(python=sys.executable, text="class RingKernelRuntime"))
    for name in ("some_benchmark.py", "_harness.py"):
        (project.root / "benchmarks" / name).touch()
    return project


def test_every_command_runs(project: Project) -> None:
    status, output = project.run()
    assert status == 0, output
    lines = [line.partition(" s  ")[2] for line in output.splitlines() if " s  " in line]
    assert lines == [
        "pytest",
        "pytest --cov=pydotcompute",
        "pytest tests/unit/",
        'pytest -m "not cuda"',
        'pytest -m "not metal"',
        'pytest -m "not slow"',
        "mypy pydotcompute",
        "ruff check pydotcompute",
        "mkdocs serve",
        "python setup_cython.py build_ext --inplace",
        "python benchmarks/some_benchmark.py --quick",
    ]
    assert "11 of 11 commands work" in output


def test_quick_runs_collect_only_and_benchmarks_run_whole_on_request(project: Project) -> None:
    status, output = project.run("--quick", "--only", "pytest")
    assert status == 0, output
    assert output.count(" --collect-only --quiet\n") == 6
    status, output = project.run("--benchmarks", "--only", "benchmark")
    assert status == 0, output
    assert "python benchmarks/some_benchmark.py\n" in output


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("mypy", "#!/bin/sh\necho found 3 errors >&2\nexit 1\n", "exit status 1; the end of its output:\n    found 3 errors"),
        ("mypy", "#!/bin/sh\nkill -9 $$\n", "exit status -9"),
        ("python", ECHO, "its output does not contain 'nothing to compile'"),
        (
            "mkdocs",
            "#!/bin/sh\necho no such theme\nexit 1\n",
            "it served no page within 180 s, or ended; the end of its output:\n    no such theme",
        ),
        (
            "mkdocs",
            SERVER.format(python=sys.executable, text="empty"),
            "the page api/runtime/ does not contain RingKernelRuntime",
        ),
    ],
    ids=["fails", "is killed", "says something else", "does not serve", "serves another page"],
)
def test_a_command_that_does_not_work_is_reported(project: Project, name: str, text: str, problem: str) -> None:
    project.install(name, text)
    status, output = project.run("--only", {"python": "setup_cython"}.get(name, name))
    assert status == 1, output
    assert problem in output
    assert "0 of 1 commands work" in output


def test_a_choice_without_commands_is_an_error(project: Project) -> None:
    status, output = project.run("--only", "no such command")
    assert status == 2, output
    assert "no command contains 'no such command'" in output
    assert "creating an environment" not in output


def test_a_program_that_is_not_installed_is_reported(project: Project) -> None:
    (project.environment / "bin/mkdocs").unlink()
    status, output = project.run("--only", "mkdocs")
    assert status == 1, output
    assert "`mkdocs` is not installed by the extra `dev`" in output


def test_a_command_that_hangs_is_ended_with_what_it_started(project: Project) -> None:
    project.install("mypy", "#!/bin/sh\nsleep 1000 &\nwait\n")
    environment = commands.Environment(project.environment, project.root)
    with pytest.raises(TimeoutError, match="it did not end within 1 s"):
        # Ends only once no process holds the pipe.
        environment.run("mypy", limit_s=1)


@pytest.mark.slow
def test_without_an_environment_nothing_runs(project: Project) -> None:
    # The root contains no package that pip could install.
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--root", str(project.root)], check=False, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "creating the environment failed" in done.stdout
