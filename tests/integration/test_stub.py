"""The stub of the extension module matches the built module."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from pydotcompute import _core

ROOT = Path(__file__).resolve().parents[2]
ALLOWLIST = Path(__file__).with_name("stub_allowlist.txt")


def test_signatures_match_the_built_module() -> None:
    command = [sys.executable, "-m", "mypy.stubtest", "pydotcompute._core"]
    # Disjoint bases (PEP 800) matter only to classes with several bases.
    command += ["--ignore-disjoint-bases", "--mypy-config-file", str(ROOT / "pyproject.toml"), "--allowlist", str(ALLOWLIST)]
    if sys.version_info >= (3, 12):
        # Some entries are needed on Python 3.11 only.
        command.append("--ignore-unused-allowlist")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_stub_and_module_define_the_same_classes() -> None:
    stub = ast.parse((ROOT / "pydotcompute/_core.pyi").read_text())
    declared = {node.name for node in stub.body if isinstance(node, ast.ClassDef)}
    assert declared == {name for name, value in vars(_core).items() if isinstance(value, type)}
