"""Every example runs as a user starts it and verifies its own result. `test_benchmarks.py` has the benchmarks over a range of sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAB = ROOT.parent / "shared" / "data" / "nab"
DPKG = Path("/var/lib/dpkg/status")

# Modules that examples import, which are not programs; and examples with their own tests, below or in `test_shutdown.py`.
SHARED_MODULES = {"graphs.py", "series.py"}
WITH_TESTS = {"anomaly_detection.py", "pagerank.py", "serving.py", "shutdown.py", "streaming_pipeline.py", "vector_add.py"}
OTHERS = sorted(path.name for path in (ROOT / "examples").glob("*.py") if path.name not in SHARED_MODULES | WITH_TESTS)


def run(script: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script with warnings as errors, like the tests themselves."""
    command = [sys.executable, "-W", "error", str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100, check=False)


def output_of(script: str, *arguments: object, cwd: Path) -> str:
    """Returns the output of a script. The test fails unless its exit status is 0."""
    done = run(script, *arguments, cwd=cwd)
    assert done.returncode == 0, f"{script} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def edges(tmp_path: Path) -> Path:
    """A graph in which 30 vertices have an edge to `hub`, and `hub` has one to the first of them."""
    path = tmp_path / "edges.txt"
    path.write_text("# a star\nhub v0\n" + "".join(f"v{index} hub\n" for index in range(30)))
    return path


def test_vector_add(tmp_path: Path) -> None:
    assert "equal to NumPy's" in output_of("examples/vector_add.py", "--size", 1000, cwd=tmp_path)


def test_streaming_pipeline(tmp_path: Path) -> None:
    printed = output_of("examples/streaming_pipeline.py", "--lines", 1000, cwd=tmp_path)
    assert next(line for line in printed.splitlines() if "too hot" in line).startswith("sensor 3:")
    assert "1000 lines, 10 of them invalid" in printed


def test_pagerank_of_a_list_of_edges(tmp_path: Path, edges: Path) -> None:
    printed = output_of("examples/pagerank.py", "--edges", edges, "--kernels", 3, "--top", 2, cwd=tmp_path)
    assert [line.split()[1] for line in printed.splitlines()[-2:]] == ["hub", "v0"]


def test_pagerank_names_the_line_that_is_not_an_edge(tmp_path: Path) -> None:
    (tmp_path / "edges.txt").write_text("a b\nc\n")
    done = run("examples/pagerank.py", "--edges", "edges.txt", cwd=tmp_path)
    assert done.returncode != 0
    assert "line 2 of edges.txt is 'c'" in done.stderr


@pytest.mark.skipif(not DPKG.exists(), reason="this machine has no dpkg")
def test_pagerank_of_debian_packages(tmp_path: Path) -> None:
    printed = output_of("examples/pagerank.py", "--top", 3, cwd=tmp_path)
    assert "libc6" in printed


def test_anomaly_detection_on_synthetic_series(tmp_path: Path) -> None:
    arguments = ["--series", 2, *(["--data", NAB] if NAB.exists() else [])]
    printed = output_of("examples/anomaly_detection.py", *arguments, cwd=tmp_path)
    assert sum("anomalies found" in line for line in printed.splitlines()) == 2


@pytest.mark.skipif(NAB.exists(), reason="the NAB data is present, so the series are not synthetic")
def test_anomaly_detection_says_why_its_series_are_synthetic(tmp_path: Path) -> None:
    printed = output_of("examples/anomaly_detection.py", "--series", 1, cwd=tmp_path)
    assert "no NAB data" in printed
    assert "3 of 3 anomalies found, 0 alerts elsewhere" in printed


def test_serving_by_a_real_server(tmp_path: Path) -> None:
    for library in ("starlette", "uvicorn"):
        pytest.importorskip(library, reason="the extra `dev` is not installed")
    assert "200 requests at once, 0 wrong answers" in output_of("examples/serving.py", cwd=tmp_path)


@pytest.mark.parametrize("example", OTHERS)
def test_other_example_exits_with_0(example: str, tmp_path: Path) -> None:
    output_of(f"examples/{example}", cwd=tmp_path)


@pytest.mark.parametrize("subject", ["ask", "serialise"])
def test_extended_benchmark_prints_a_measurement(subject: str, tmp_path: Path) -> None:
    printed = output_of("benchmarks/extended_benchmark.py", "--quick", "--json", "--png", "out.png", cwd=tmp_path)
    document = json.loads(printed)
    assert "time.perf_counter_ns" in document["method"]
    series = {one["name"]: one for one in document["series"]}
    assert series[subject]["p50"] > 0
    assert series[subject]["samples"] >= 20
    assert any(one["reference"] for one in series.values())
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_every_workload_of_the_comparison_runs_on_this_release(tmp_path: Path) -> None:
    sys.path.append(str(ROOT / "benchmarks"))
    try:
        from _workloads import WORKLOADS  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    names = [workload.name for workload in WORKLOADS]
    printed = output_of("benchmarks/_worker.py", "--quick", "--loop", "asyncio", *names, cwd=tmp_path)
    results = [json.loads(line) for line in printed.splitlines()][1:]
    assert [result["name"] for result in results] == names
    assert {result["name"]: result["error"] for result in results if "error" in result} == {}
    assert os.listdir(tmp_path) == []
