"""Every Python snippet of the documentation runs and prints its `#>` lines, and the site builds without a warning."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Iterator
from pathlib import Path

import numba  # noqa: F401 - importing it registers `print`, which must precede the replacement of `print` for a snippet
import pytest
from pytest_examples import CodeExample, EvalExample, find_examples

from pydotcompute.ring_kernels.message import _message_registry
from pydotcompute.ring_kernels.runtime import _kernel_registry

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = list(find_examples(*PAGES))
# A snippet with a title is a part of the file of that name, which has tests of its own.
PARTS = [part for part in EXAMPLES if "title" in part.prefix_settings()]
SNIPPETS = [snippet for snippet in EXAMPLES if snippet not in PARTS]


@pytest.fixture(autouse=True)
def undone_effects() -> Iterator[None]:
    """Undoes the effects of a snippet: on `__main__`, registered messages and ring kernels, handlers of signals, and logging."""
    main = sys.modules["__main__"]
    registries = [(registry, dict(registry)) for registry in (_message_registry, _kernel_registry)]
    loggers = [(logger, logger.level, list(logger.handlers)) for logger in (logging.getLogger(), logging.getLogger("pydotcompute"))]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    sys.modules["__main__"] = main
    for registry, before in registries:
        registry.clear()
        registry.update(before)
    logging.disable(logging.NOTSET)
    for logger, level, handlers in loggers:
        logger.setLevel(level)
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: f"{snippet.path.name}:{snippet.start_line}")
def test_snippet_prints_its_expected_output(snippet: CodeExample, eval_example: EvalExample) -> None:
    for library in ("httpx", "starlette"):
        if f"import {library}" in snippet.source or f"from {library}" in snippet.source:
            pytest.importorskip(library, reason="the extra `dev` is not installed")
    failure = None
    try:
        if "#>" in snippet.source:
            eval_example.run_print_check(snippet)
        else:
            eval_example.run(snippet)
    except Exception as error:
        # pytest-examples replaces the module's frame with one of the page, which pytest cannot format on Python 3.11. The test
        # therefore fails below, outside the exception handler.
        line = [line for _, line in traceback.walk_tb(error.__traceback__)][-1]
        failure = f"{snippet.path.name}, line {line}: {type(error).__name__}: {error}"
    if failure is not None:
        pytest.fail(failure, pytrace=False)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.path.name}:{part.start_line}")
def test_a_part_of_a_program_is_in_its_file(part: CodeExample) -> None:
    program = (ROOT / part.prefix_settings()["title"]).read_text()
    # The page has parts of a function without its indentation.
    assert any(textwrap.indent(part.source, indent) in program for indent in ("", "    ")), f"copy the part to {part.path.name} again"


def test_a_snippet_leaves_the_configuration_of_logging_as_it_was() -> None:
    assert logging.getLogger("pydotcompute").level == logging.NOTSET
    assert [handler for handler in logging.getLogger().handlers if type(handler) is logging.StreamHandler] == []


def test_all_main_pages_have_snippets_with_output() -> None:
    assert {"README.md", "index.md", "first-kernel.md", "tiers.md", "memory.md", "kernels.md", "errors.md", "migration.md"} <= {
        snippet.path.name for snippet in SNIPPETS if "#>" in snippet.source
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_named_in_shell_snippets_exist(page: Path) -> None:
    shell = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    named = re.findall(r"\bpython ([\w/]+\.py)", "\n".join(shell))
    assert [script for script in named if not (ROOT / script).is_file()] == []


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="the extra `docs` is not installed")
    # Silences the advertisement of the theme on standard error.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert (tmp_path / "api" / "runtime" / "index.html").is_file()
    pages = {page: page.read_text() for page in tmp_path.rglob("*.html")}
    # Links to other servers are fine; what a browser loads to show a page is not.
    loaded = r"<(?:script|img|iframe)\b[^>]*\bsrc=[\"']?(?:https?:)?//|<link\b[^>]*\bhref=[\"']?(?:https?:)?//|class=[\"']?mermaid"
    assert [str(page) for page, text in pages.items() if re.search(loaded, text)] == []
