"""The on-disk cache of compiled kernels: restarts, concurrent processes, damaged files, read-only folders, limits."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from pydotcompute.compilation.cache import KernelCache, get_kernel_cache
from pydotcompute.exceptions import InvalidConfigurationError


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.kernel"))


def test_an_entry_is_loaded_after_a_restart(tmp_path: Path) -> None:
    assert KernelCache(tmp_path).store("add", "h1", b"\0code", signature="void(f4[:])", metadata={"registers": 24})
    again = KernelCache(tmp_path)
    assert again.load("add", "h1") == b"\0code"
    assert again.contains("add", "h1")
    (entry,) = again.entries()
    assert (entry.kernel_name, entry.source_hash, entry.signature) == ("add", "h1", "void(f4[:])")
    assert entry.metadata == {"registers": 24}
    assert entry.hit_count == 1
    assert entry.ptx_path is not None and entry.ptx_path.parent == tmp_path


def test_text_is_stored_as_utf8_and_replaced(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    cache.store("add", "h", "first")
    cache.store("add", "h", "// größer")
    assert cache.load("add", "h") == "// größer".encode()
    assert cache.get_stats()["entries"] == 1


def test_each_name_and_hash_is_a_separate_entry(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    cache.store("add", "h1", b"1")
    cache.store("add", "h2", b"2")
    cache.store("../add/" + "x" * 300, "h1", b"3")
    assert [cache.load("add", "h1"), cache.load("add", "h2"), cache.load("../add/" + "x" * 300, "h1")] == [b"1", b"2", b"3"]
    assert cache.load("add", "h3") is None
    assert len(files_of(tmp_path)) == 3


def test_remove_and_clear_return_what_they_removed(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    for name in "abc":
        cache.store(name, "h", b"code")
    assert cache.remove("a", "h") is True
    assert cache.remove("a", "h") is False
    assert cache.clear() == 2
    assert cache.clear() == 0
    assert not files_of(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[:20], id="truncated in its checksum"),
        pytest.param(lambda data: data[:-1], id="last byte missing"),
        pytest.param(lambda data: data + b"x", id="one byte more"),
        pytest.param(lambda data: data[:-3] + b"???", id="other code"),
        pytest.param(lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:], id="one bit of its header"),
        pytest.param(lambda data: os.urandom(len(data)), id="noise"),
    ],
)
def test_a_damaged_file_is_a_miss_and_is_removed(tmp_path: Path, damage, caplog: pytest.LogCaptureFixture) -> None:
    cache = KernelCache(tmp_path)
    cache.store("add", "h", b"code" * 10)
    cache.store("other", "h", b"other")
    (path,) = [path for path in files_of(tmp_path) if b'"add"' in path.read_bytes()]
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert cache.load("add", "h") is None
    assert str(path) in caplog.text and "corrupt" in caplog.text
    assert not path.exists()
    assert cache.load("other", "h") == b"other"
    assert cache.get_stats()["corrupt_entries"] == 1
    assert cache.store("add", "h", b"new") and cache.load("add", "h") == b"new"


def test_an_entry_in_the_file_of_another_is_a_miss(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    cache.store("add", "h1", b"one")
    (one,) = files_of(tmp_path)
    data = one.read_bytes()
    cache.store("add", "h2", b"two")
    (two,) = [path for path in files_of(tmp_path) if path != one]
    two.write_bytes(data)
    assert cache.load("add", "h2") is None
    assert cache.load("add", "h1") == b"one"


def test_the_least_recently_used_entry_is_removed_first(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path, max_entries=3)
    for name in "abc":
        cache.store(name, "h", b"code")
    KernelCache(tmp_path).load("a", "h")  # A cache hit in another process counts as a use.
    cache.store("d", "h", b"code")
    assert [name for name in "abcd" if cache.contains(name, "h")] == ["a", "c", "d"]


def test_the_size_is_bounded_and_a_larger_entry_is_not_stored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = KernelCache(tmp_path, max_size_mb=1)
    for name in "abc":
        assert cache.store(name, "h", bytes(400_000))
    assert [name for name in "abc" if cache.contains(name, "h")] == ["b", "c"]
    assert cache.get_stats()["total_size_bytes"] <= 1024 * 1024
    with caplog.at_level(logging.WARNING):
        assert cache.store("huge", "h", bytes(1024 * 1024)) is False
    assert "exceed the cache's limit" in caplog.text
    assert cache.contains("c", "h")


def test_temporary_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    leftover = tmp_path / "0123.kernel.99.unfinished"
    leftover.write_bytes(b"incomplete")
    assert cache.get_stats()["entries"] == 0
    cache.store("add", "h", b"code")
    assert not leftover.exists()


def test_the_folder_is_tagged_as_a_cache(tmp_path: Path) -> None:
    KernelCache(tmp_path / "new")
    assert (tmp_path / "new/CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0


def test_a_deleted_folder_is_created_again(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path / "cache")
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    (tmp_path / "cache").rmdir()
    assert cache.load("add", "h") is None
    assert cache.store("add", "h", b"code")
    assert cache.load("add", "h") == b"code"


def test_invalid_limits_and_a_file_instead_of_a_folder_raise(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigurationError, match="max_entries=0"):
        KernelCache(tmp_path, max_entries=0)
    with pytest.raises(InvalidConfigurationError, match="max_size_mb"):
        KernelCache(tmp_path, max_size_mb=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidConfigurationError, match="there is a file of that name"):
        KernelCache(tmp_path / "file")


def test_metadata_that_json_cannot_encode_raises_and_writes_nothing(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    with pytest.raises(TypeError):
        cache.store("add", "h", b"code", metadata={"when": object()})
    assert not files_of(tmp_path)


def test_the_default_folder_is_in_the_cache_folder_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOTCOMPUTE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert KernelCache().get_stats()["cache_dir"] == str(tmp_path / "dotcompute/python")
    monkeypatch.setenv("DOTCOMPUTE_CACHE", str(tmp_path / "own"))
    assert KernelCache().get_stats()["cache_dir"] == str(tmp_path / "own/python")
    assert get_kernel_cache() is get_kernel_cache()


READ_ONLY = """
import logging, os, sys
from pathlib import Path
from pydotcompute.compilation.cache import KernelCache
logging.basicConfig(stream=sys.stdout)
if os.geteuid() == 0:
    os.setuid(65534)  # The superuser may write to every folder.
cache = KernelCache(sys.argv[1])
assert cache.load("add", "h") == b"code", "loading needs no write permission"
assert cache.contains("add", "h")
assert cache.load("damaged", "h") is None
assert cache.store("new", "h", b"code") is False
assert cache.load("new", "h") is None
assert cache.remove("add", "h") is False
assert cache.clear() == 0
assert KernelCache(Path(sys.argv[1]) / "sub").store("new", "h", b"code") is False
print("survived")
"""


def test_a_read_only_folder_can_be_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("readable")
    cache = KernelCache(folder)
    cache.store("damaged", "h", b"code")
    files_of(folder)[0].write_bytes(b"PDCKERN1 nonsense")
    cache.store("add", "h", b"code")
    root = Path(tempfile.gettempdir())
    parents = [folder, *(parent for parent in folder.parents if parent != root and parent.is_relative_to(root))]
    modes = [parent.stat().st_mode for parent in parents]
    try:
        for parent in parents:
            parent.chmod(0o755)
        folder.chmod(0o555)
        run = subprocess.run([sys.executable, "-c", READ_ONLY, str(folder)], check=False, capture_output=True, text=True, timeout=60)
    finally:
        for parent, mode in zip(parents, modes, strict=True):
            parent.chmod(mode)
    assert run.returncode == 0, run.stderr
    assert "survived" in run.stdout
    assert "storing kernel 'new'" in run.stdout and "Permission denied" in run.stdout


def work(folder: str, number: int, rounds: int) -> None:
    """Runs in each process: stores its own entries and loads those of all, each of which must be complete or absent."""
    cache = KernelCache(folder, max_entries=12)
    for round_ in range(rounds):
        mine = f"kernel-{number}-{round_ % 4}"
        assert cache.store(mine, "h", mine.encode() * 2000)
        assert cache.store("shared", "h", f"{number},".encode() * 5000)
        for other in range(4):
            for name in (f"kernel-{other}-{round_ % 4}", "shared"):
                data = cache.load(name, "h")
                if data is not None and name == "shared":
                    assert len(set(data.split(b",")) - {b""}) == 1, "an entry has the data of one writer"
                elif data is not None:
                    assert data == name.encode() * 2000
        if round_ % 7 == number:
            cache.remove("shared", "h")
    assert cache.get_stats()["corrupt_entries"] == 0


def test_processes_share_a_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(str(tmp_path), number, 40)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(90)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert len(files_of(tmp_path)) == 12
    assert not list(tmp_path.glob("*.unfinished"))


KILLED = """
import sys
from pydotcompute.compilation.cache import KernelCache
cache = KernelCache(sys.argv[1])
print("begun", flush=True)
while True:
    cache.store("add", "h", b"code" * 500_000)
"""


def test_a_process_killed_while_writing_leaves_a_complete_entry_and_no_lock(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            while not files_of(tmp_path):
                assert process.poll() is None
            process.kill()
        assert cache.load("add", "h") == b"code" * 500_000
    assert cache.store("add", "h", b"new")
    assert cache.load("add", "h") == b"new"
    assert not list(tmp_path.glob("*.unfinished"))
