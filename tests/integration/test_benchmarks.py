"""The benchmarks over a range of sizes: what a quick run writes, where they find a crossover, and that a wrong result ends them."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pydotcompute.core.accelerator import cuda_available
from pydotcompute.native import compile_cubin

pytest.importorskip("numba")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[2]
HAS_SCIPY = importlib.util.find_spec("scipy") is not None
HAS_MLX = importlib.util.find_spec("mlx") is not None


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The benchmarks' modules, importable as they are for the benchmarks themselves; removed afterwards."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    names = ["_harness", "_scaling", "_pagerank_graphs", "_pagerank_arrays", "_pagerank_kernels", "pagerank_benchmark"]
    names += ["_anomaly_detector", "_anomaly_kernels", "realtime_anomaly_benchmark"]
    yield {name: importlib.import_module(name) for name in names}
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith((str(ROOT / "benchmarks"), str(ROOT / "examples"))):
            del sys.modules[name]


def document_of(script: str, *arguments: object, cwd: Path) -> dict[str, Any]:
    """Runs a benchmark briefly, with warnings as errors, and returns what it wrote."""
    command = [sys.executable, "-W", "error", str(ROOT / "benchmarks" / script), "--quick", "--json", "out.json", "--plot", "out.png"]
    done = subprocess.run([*command, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"{script} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    document: dict[str, Any] = json.loads((cwd / "out.json").read_text())
    assert (cwd / "out.png").read_bytes().startswith(b"\x89PNG")
    for line in (f"Command: {document['command']}", f"Method: {document['method']}", document["machine"]["processor"], *document["checks"]):
        assert line in done.stdout
    return document


@pytest.fixture(scope="module")
def pagerank(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the PageRank benchmark writes for two small Kronecker graphs and a star."""
    folder = tmp_path_factory.mktemp("pagerank")
    (folder / "edges.txt").write_text("# a star\nhub v0\n" + "".join(f"v{index} hub\n" for index in range(30)))
    return document_of("pagerank_benchmark.py", "--edges", "edges.txt", cwd=folder)


@pytest.fixture(scope="module")
def anomaly(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the anomaly benchmark writes for two batch sizes."""
    return document_of("realtime_anomaly_benchmark.py", cwd=tmp_path_factory.mktemp("anomaly"))


def check_rows(document: dict[str, Any]) -> set[tuple[str, str, int]]:
    """Asserts that every row is complete and in order; returns operation, subject and size of each."""
    assert document["units"]["p50"] == document["units"]["p99"] == "ns"
    for row in document["rows"]:
        assert 0 < row["min"] <= row["p50"] <= row["p99"] <= row["max"], row
        assert row["calls"] >= 3
        assert row["rate"] == pytest.approx(row["items"] / row["p50"] * 1e9)
        assert row["transfer"] is None or 0 <= row["transfer"] <= 1
    assert all(skipped["reason"] for skipped in document["skipped"])
    return {(row["operation"], row["subject"], row["size"]) for row in document["rows"]}


def test_pagerank_benchmark_measures_every_subject_at_every_size(pagerank: dict[str, Any]) -> None:
    document = pagerank
    rows = check_rows(document)
    subjects = {"numpy-dense", "numpy-sparse", "numba-edges", "ring-asyncio", "ring-native"} | ({"scipy-sparse"} if HAS_SCIPY else set())
    assert {(operation, subject, size) for operation in ("rank", "update") for subject in subjects for size in (31, 256, 1024)} <= rows
    assert {("rank", "ring-threads-2", 1024), ("rank", "numba-rows", 1024)} <= rows
    assert document["units"]["size"] == "vertices" and document["units"]["rate"] == "edges/s"
    # A ring kernel on the emulated device is compared with the reference, and not timed.
    assert not any(subject == "ring-emulated" for _, subject, _ in rows)
    assert len(document["checks"]) == 3 and all("ring-native" in check for check in document["checks"])
    assert any("edges.txt" in note for note in document["notes"])


def test_anomaly_benchmark_measures_every_subject_at_every_batch_size(anomaly: dict[str, Any]) -> None:
    document = anomaly
    rows = check_rows(document)
    subjects = {"python", "numpy", "numba", "ring-asyncio", "ring-thread", "ring-native-events", "ring-native-blocks"}
    assert {("score", subject, size) for subject in subjects for size in (1, 100)} <= rows
    assert document["units"]["p50_per_item"] == "ns" and document["units"]["transfer"] == "share of the call"
    for row in document["rows"]:
        assert row["p50_per_item"] == pytest.approx(row["p50"] / row["size"])
        assert row["transfer"] is not None


@pytest.mark.skipif(cuda_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("benchmark", ["pagerank", "anomaly"])
def test_without_a_gpu_its_rows_say_so(benchmark: str, request: pytest.FixtureRequest) -> None:
    document = request.getfixturevalue(benchmark)
    assert all(row["device"] == "cpu" for row in document["rows"])
    without = {skipped["subject"] for skipped in document["skipped"] if skipped["reason"] == "no CUDA device"}
    assert any(subject.startswith("ring-cuda") for subject in without) and any(subject.startswith("cupy") for subject in without)
    against_cpu = [one for one in document["crossovers"] if one["faster"] == "GPU"]
    assert against_cpu and all(one["sizes"] == [] and one["missing"] == "no CUDA device" for one in against_cpu)


def test_metal_benchmark_multiplies_matrices(tmp_path: Path) -> None:
    document = document_of("metal_benchmark.py", "--size", 1000, cwd=tmp_path)
    rows = check_rows(document)
    operations = {("matmul", 64), ("matmul", 128), ("vector_add", 1000), ("copy_to_host", 1000)}
    assert {(operation, "numpy", size) for operation, size in operations} <= rows
    if HAS_MLX:
        assert {(operation, "mlx", size) for operation, size in operations} <= rows
    else:
        assert "MLX is not installed" in document["skipped"][0]["reason"]


def rows_of(modules: dict[str, ModuleType], subject: str, device: str, medians: dict[int, float]) -> list[Any]:
    return [modules["_scaling"].Row("case", "rank", subject, size, np.full(3, median), 1.0, device) for size, median in medians.items()]


def test_a_crossover_is_the_size_from_which_on_a_subject_stays_faster(modules: dict[str, ModuleType]) -> None:
    rows = rows_of(modules, "a", "cpu", {1: 5, 10: 9, 100: 30, 1000: 40}) + rows_of(modules, "b", "cpu", {1: 4, 10: 10, 100: 31, 1000: 80})
    crossover = modules["_scaling"].crossover
    found = crossover(rows, "rank", "case", "a", "b")
    assert (found.size, found.sizes, found.ratio) == (10, (1, 10, 100, 1000), 2.0)
    assert "faster from 10 vertices on (2.00 × at 1,000)" in found.sentence("vertices")
    assert crossover(rows, "rank", "case", "b", "a").size is None
    # A win that does not last is none.
    assert crossover(rows[:4] + rows_of(modules, "b", "cpu", {1: 6, 1000: 30}), "rank", "case", "a", "b").size is None


def test_the_gpu_is_compared_with_the_fastest_subject_of_the_cpu(modules: dict[str, ModuleType]) -> None:
    cpu = rows_of(modules, "a", "cpu", {1: 1, 10: 50}) + rows_of(modules, "b", "cpu", {1: 3, 10: 20})
    found = modules["_scaling"].crossover(cpu + rows_of(modules, "c", "gpu", {1: 2, 10: 10}), "rank", "case", "GPU", "CPU")
    assert (found.size, found.ratio) == (10, 2.0)
    assert modules["_scaling"].crossover(cpu, "rank", "case", "GPU", "CPU").sentence("vertices").endswith("no CUDA device")


def test_subjects_take_turns_until_their_time_is_spent(modules: dict[str, ModuleType]) -> None:
    called: list[str] = []

    def subject(name: str, nanoseconds: int) -> Callable[[], list[int]]:
        def call() -> list[int]:
            called.append(name)
            return [nanoseconds]

        return call

    limits = modules["_scaling"].Limits(sampling_s=1e-6, row_s=1.0, memory_bytes=1.0, least=3, most=7)
    samples = modules["_scaling"].sample(
        {"short": subject("short", 100), "long": subject("long", 5000), "free": subject("free", 0)}, limits
    )
    assert {name: times.tolist() for name, times in samples.items()} == {"short": [100] * 7, "long": [5000] * 3, "free": [0] * 7}
    # 1,000 ns in five rounds: two calls of 100 ns in each, until there are seven.
    assert "".join(name[0] for name in called) == "sslfffffff" + "ssl" * 2 + "s"


@pytest.fixture
def stand_in() -> Any:
    """NumPy with the names of CuPy that the benchmarks use, so that the code of their GPU rows runs without a GPU."""
    stream = SimpleNamespace(synchronize=lambda: None)
    return SimpleNamespace(**vars(np), asnumpy=np.array, cuda=SimpleNamespace(get_current_stream=lambda: stream))


def test_the_ranks_of_a_gpu_are_those_of_numpy(modules: dict[str, ModuleType], stand_in: Any) -> None:
    arrays, graph = modules["_pagerank_arrays"], modules["_pagerank_graphs"].kronecker(7, 4)
    ends = np.array([1, 2], dtype=np.int32), np.array([3, 3], dtype=np.int32)
    on_cpu = arrays.MatrixRanking(graph, np, arrays.counted_product())
    makers = [arrays.dense_matrix(stand_in)]
    if HAS_SCIPY:
        makers.append(arrays.sparse_matrix(stand_in, importlib.import_module("scipy.sparse")))
    ranked, updated = on_cpu.rank(), on_cpu.update(*ends)
    for maker in makers:
        on_gpu = arrays.MatrixRanking(graph, stand_in, maker)
        assert np.allclose(on_gpu.rank().ranks, ranked.ranks, rtol=0, atol=1e-12)
        assert np.allclose(on_gpu.update(*ends).ranks, updated.ranks, rtol=0, atol=1e-12)


@pytest.mark.parametrize("resident", [True, False])
def test_the_scores_of_a_gpu_are_those_of_numpy(modules: dict[str, ModuleType], stand_in: Any, resident: bool) -> None:
    detector = modules["_anomaly_detector"]
    values = np.random.default_rng(1).normal(50, 1, 600)
    on_gpu, on_cpu = detector.ArrayScorer(1, 150, stand_in, resident), detector.LoopScorer(1, 150, detector.plain_loop())
    for first in range(0, 600, 200):
        scored = on_gpu.score(0, values[first : first + 200])
        assert np.allclose(scored.scores, on_cpu.score(0, values[first : first + 200]).scores)
        assert 0 < scored.transfer_ns < scored.elapsed_ns


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("numba_cuda", "nvidia")),
    reason="not installed: pip install 'pydotcompute[cuda]'",
)
def test_the_handlers_compile_for_a_gpu(modules: dict[str, ModuleType]) -> None:
    graph, kernels, detectors = modules["_pagerank_graphs"].kronecker(7, 4), modules["_pagerank_kernels"], modules["_anomaly_kernels"]
    assert compile_cubin(kernels.handle_command, state=kernels.initial_state(graph, 10))[:4] == b"\x7fELF"
    for handler in (detectors.score_event, detectors.score_block):
        assert compile_cubin(handler, state=detectors.initial_state(4, 100))[:4] == b"\x7fELF"


def test_rows_over_the_limits_are_skipped_with_the_reason(modules: dict[str, ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    scaling = modules["_scaling"].Scaling("vertices", "edges", modules["_scaling"].Limits(0.1, 1.0, 2.0**30))
    scaling.rows += rows_of(modules, "a", "cpu", {1: 1e9})
    assert "over --row-limit 1 s" in scaling.too_slow("case", "rank", "a", 1.0)
    assert scaling.too_slow("case", "rank", "b", 1.0) is None
    assert "needs 2.00 GiB, over --memory 1 GiB" in scaling.too_large(2.0**31)
    scaling.skip("a", "too slow", "case", 1000)
    scaling.skip("a", "too slow", "case", 1000)
    assert capsys.readouterr().err == "skipped: a, case, 1,000 vertices: too slow\n"


def test_kronecker_graphs_are_the_same_for_the_same_seed_and_have_hubs(modules: dict[str, ModuleType]) -> None:
    kronecker = modules["_pagerank_graphs"].kronecker
    graph, again, other = kronecker(10, 8), kronecker(10, 8), kronecker(10, 8, seed=1)
    assert np.array_equal(graph.sources, again.sources) and np.array_equal(graph.targets, again.targets)
    assert not np.array_equal(graph.sources, other.sources)
    pairs = set(zip(graph.targets.tolist(), graph.sources.tolist(), strict=True))
    assert len(pairs) == graph.edges and all(source != target for target, source in pairs)
    assert graph.edges > 4 * graph.vertices
    assert graph.out_degrees.max() > 20 * np.median(graph.out_degrees)


def test_modules_point_to_the_modules_that_they_import(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    (tmp_path / "pack" / "test").mkdir(parents=True)
    (tmp_path / "pack" / "__init__.py").write_text('"""Not an import: import leaf"""\nfrom pack import part\n')
    (tmp_path / "pack" / "part.py").write_text("def later():\n    import leaf as alias, absent\n")
    (tmp_path / "pack" / "test" / "case.py").write_text("import leaf\n")
    (tmp_path / "leaf.py").write_text("")
    (tmp_path / "wrong.py").write_text("import leaf; this is no Python\n")
    graph = modules["_pagerank_graphs"].imports_among(tmp_path, "a folder")
    assert graph.names == ["leaf", "pack", "pack.part", "wrong"]
    edges = {(int(source), target) for target in range(4) for source in graph.sources[graph.starts[target] : graph.starts[target + 1]]}
    assert edges == {(1, 2), (2, 0)}


def test_a_wrong_rank_or_score_ends_the_benchmark(modules: dict[str, ModuleType]) -> None:
    pagerank, anomaly = modules["pagerank_benchmark"], modules["realtime_anomaly_benchmark"]
    failed = modules["_harness"].CheckFailed
    ranking = modules["_pagerank_arrays"].Ranking(np.array([0.5, 0.5]), 1, 1)
    with pytest.raises(failed, match="a, rank: the ranks differ"):
        pagerank.compare("a", "rank", ranking, np.array([0.4, 0.6]))
    streams = anomaly.Streams.of("case", [np.arange(200.0)], 150)
    streams.expected[0][150] += 1
    scorer = anomaly.LoopScorer(1, 150, anomaly.plain_loop())
    with pytest.raises(failed, match="a: the scores of values 100 to 199 of stream 0 differ"):
        anomaly.verify("a", scorer, streams, 100, streams.batches(100))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("pagerank_benchmark.py", "--graph", "missing"), "there is no file missing"),
        (("realtime_anomaly_benchmark.py", "--data", "missing"), "missing has no windows.json"),
    ],
)
def test_data_that_is_not_there_is_an_error_before_anything_runs(arguments: tuple[str, ...], problem: str, tmp_path: Path) -> None:
    script, *options = arguments
    command = [sys.executable, str(ROOT / "benchmarks" / script), *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr
