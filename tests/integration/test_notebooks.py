"""The notebooks of the documentation run in a Jupyter kernel, print their `#>` lines, and are stored without outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def printed(cell: Any) -> list[str]:
    """Returns the lines that a cell has printed, which has no other output."""
    assert [(output.output_type, output.name) for output in cell.outputs] in ([], [("stream", "stdout")])
    return [line for output in cell.outputs for line in output.text.splitlines()]


def test_there_are_notebooks_and_a_page_links_to_each() -> None:
    pages = "".join(page.read_text() for page in DOCS.glob("*.md"))
    assert NOTEBOOKS
    assert [path.name for path in NOTEBOOKS if f"(notebooks/{path.name})" not in pages] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_stored_without_outputs_and_traces_of_its_runs(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["language_info"] == {"name": "python"}, "a version of Python changes with each run"
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None), "clear all outputs before you store the notebook"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_prints_its_expected_lines(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipykernel", reason="the extra `dev` is not installed")
    nbclient = pytest.importorskip("nbclient", reason="the extra `dev` is not installed")
    nbformat = pytest.importorskip("nbformat", reason="the extra `dev` is not installed")
    # Neither reads the user's settings nor writes beside them.
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    expected = [[line.removeprefix("#> ") for line in cell.source.splitlines() if line.startswith("#> ")] for cell in cells]
    assert [printed(cell) for cell in cells] == expected
    assert sum(map(len, expected)) > 5
