"""What all tests share: those that need a GPU or MLX are skipped, with the reason, where there is none."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pydotcompute import _core
from pydotcompute.core.accelerator import Accelerator
from pydotcompute.exceptions import BackendNotAvailableError


def lacks_gpu() -> str | None:
    """Why tests marked ``cuda`` cannot run, or ``None``. The driver itself is left alone: whoever starts it first decides how it runs."""
    if any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg")):
        return None
    return "this machine has no NVIDIA GPU"


def lacks_mlx() -> str | None:
    """Why tests marked ``metal`` cannot run, or ``None``."""
    return None if importlib.util.find_spec("mlx") is not None else "MLX is not installed (pip install pydotcompute[metal])"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what cannot run here as skipped, so that plain ``pytest`` works everywhere."""
    for marker, reason in (("cuda", lacks_gpu()), ("metal", lacks_mlx())):
        if reason is not None:
            for item in items:
                if item.get_closest_marker(marker) is not None:
                    item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has pydotcompute find no NVIDIA GPU, so that what a test says of memory is the same on every machine."""

    def none() -> list[_core.Device]:
        raise BackendNotAvailableError("CUDA", "this test does without")

    monkeypatch.setattr(_core, "cuda_devices", none)
    monkeypatch.setattr(Accelerator, "_instance", None)
