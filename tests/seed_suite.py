"""Runs the tests of pydotcompute 0.2.0, unmodified, against the package that this interpreter imports.

    python tests/seed_suite.py

pip fetches the sources of 0.2.0 from PyPI into a temporary folder. All of its tests are collected and run, in a folder without the package
of 0.2.0 beside them. The program prints how many passed and the name of each test that failed. Exit status:

- 0: at least 390 of the 398 tests that pass on 0.2.0 itself pass, and no other test failed than those in ``CHANGED_ON_PURPOSE``.
- 1: fewer passed, another one failed, or a file could not be collected.
- 2: wrong arguments.
- 3: the sources could not be fetched, usually because there is no network. ``--sdist FILE`` takes them from a file.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

SEED = "pydotcompute==0.2.0"
AT_LEAST = 390
NOT_FETCHED = 3
# Both far above the usual seconds: only what hangs reaches them.
FETCH_LIMIT_S = 300
RUN_LIMIT_S = 900

# Tests that fail because a release after 0.2.0 changed the behaviour, with the reason.
CHANGED_ON_PURPOSE = {
    "tests.unit.test_cache.TestKernelCache.test_creation_default_dir": (
        "the default folder of KernelCache belongs to the user: write access to it is permission to run code, and all users share /tmp"
    ),
    "tests.unit.test_validators.TestValidatorEdgeCases.test_empty_grid_size_tuple_passes_basic_check": (
        "a grid without dimensions cannot be launched, so validate_grid_size(()) is an error"
    ),
    "tests.unit.test_validators.TestValidatorEdgeCases.test_empty_block_size_tuple_passes_basic_check": (
        "a block without dimensions cannot be launched, so validate_block_size(()) is an error"
    ),
}


class NotFetchedError(Exception):
    """pip could not fetch the sources."""


@dataclass
class Outcome:
    """What became of the tests.

    Attributes:
        passed: Number of tests that passed.
        skipped: Number of tests that were skipped.
        failed: Names of the tests that failed, and of the files that could not be collected.
    """

    passed: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def unexpected(self) -> list[str]:
        """Failures without an entry in ``CHANGED_ON_PURPOSE``."""
        return [name for name in self.failed if name not in CHANGED_ON_PURPOSE]


def fetched(folder: Path) -> Path:
    """Fetches the source distribution of 0.2.0.

    Raises:
        NotFetchedError: pip failed; the text is its last line.
    """
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:", "--dest", str(folder), SEED]
    try:
        result = subprocess.run(pip, check=False, capture_output=True, text=True, timeout=FETCH_LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise NotFetchedError(f"pip did not end within {FETCH_LIMIT_S} s") from error
    files = list(folder.glob("*.tar.gz"))
    if result.returncode != 0 or not files:
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or ["pip says nothing"]
        raise NotFetchedError(lines[-1])
    return files[0]


def unpack_tests(sdist: Path, folder: Path) -> None:
    """Unpacks the tests and the settings of pytest, without the package: the tests must import the one under test."""
    with tempfile.TemporaryDirectory() as everything:
        with tarfile.open(sdist) as archive:
            archive.extractall(everything, filter="data")
        (root,) = Path(everything).iterdir()
        shutil.copytree(root / "tests", folder / "tests")
        shutil.copy(root / "pyproject.toml", folder)


def run_tests(folder: Path) -> Outcome:
    """Runs all tests of a folder and returns what became of them. Of a test that hangs, pytest prints where each thread is."""
    report = folder / "report.xml"
    settings = [f"--junitxml={report}", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=120", "--quiet", "--tb=short"]
    # Compiled kernels of earlier runs must not decide.
    environment = {**os.environ, "DOTCOMPUTE_CACHE": str(folder / "cache")}
    which = "import pydotcompute; print('testing', pydotcompute.__version__, 'of', pydotcompute.__file__, flush=True)"
    subprocess.run([sys.executable, "-c", which], check=False, cwd=folder, env=environment, timeout=RUN_LIMIT_S)
    try:
        subprocess.run([sys.executable, "-m", "pytest", *settings], check=False, cwd=folder, env=environment, timeout=RUN_LIMIT_S)
    except subprocess.TimeoutExpired:
        return Outcome(failed=[f"pytest did not end within {RUN_LIMIT_S} s"])
    return read_report(report) if report.exists() else Outcome(failed=["pytest ended without a report"])


def read_report(report: Path) -> Outcome:
    """Reads a report in JUnit's format."""
    outcome = Outcome()
    for case in ElementTree.parse(report).iter("testcase"):
        name = ".".join(part for part in (case.get("classname"), case.get("name")) if part)
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            outcome.failed.append(name)
        elif "skipped" in kinds:
            outcome.skipped += 1
        else:
            outcome.passed += 1
    return outcome


def print_outcome(outcome: Outcome, at_least: int) -> bool:
    """Prints what became of the tests. Returns whether that is enough."""
    print(f"{SEED}: {outcome.passed} passed, {len(outcome.failed)} failed, {outcome.skipped} skipped; at least {at_least} must pass")
    for name in outcome.failed:
        print(f"  failed: {name}\n    {CHANGED_ON_PURPOSE.get(name, 'unexpected')}")
    return outcome.passed >= at_least and not outcome.unexpected


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the tests of pydotcompute 0.2.0 against the package that this interpreter imports.")
    parser.add_argument("--sdist", type=Path, metavar="FILE", help="the source distribution of 0.2.0, instead of fetching it from PyPI")
    parser.add_argument("--at-least", type=int, default=AT_LEAST, metavar="N", help="how many tests must pass (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.sdist is not None and not options.sdist.is_file():
        parser.error(f"there is no file {options.sdist}; leave --sdist out to fetch the sources from PyPI")
    with tempfile.TemporaryDirectory(prefix="pydotcompute-seed-") as name:
        folder = Path(name)
        try:
            sdist = options.sdist or fetched(folder)
        except NotFetchedError as error:
            print(f"fetching {SEED} from PyPI failed: {error}\nThere may be no network; --sdist FILE takes the sources from a file.")
            return NOT_FETCHED
        unpack_tests(sdist, folder)
        return 0 if print_outcome(run_tests(folder), options.at_least) else 1


if __name__ == "__main__":
    raise SystemExit(main())
