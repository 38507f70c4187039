"""The extras of the package: what they install, and that advice names those that exist."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "extra": ""}


def installed(extra: str) -> Iterator[Requirement]:
    """Yields what an extra installs on Linux, with the extras that it contains."""
    for text in EXTRAS[extra]:
        requirement = Requirement(text)
        if requirement.name == "pydotcompute":
            for inner in requirement.extras:
                yield from installed(inner)
        elif requirement.marker is None or requirement.marker.evaluate(LINUX):
            yield requirement


def names(extra: str) -> set[str]:
    return {requirement.name for requirement in installed(extra)}


def test_cuda_is_the_newest_of_two_generations() -> None:
    assert names("cuda") == names("cuda13")
    common = {"numba", "numba-cuda", "nvidia-ml-py"}
    assert names("cuda13") & names("cuda12") == common
    for extra, generation in (("cuda12", "12"), ("cuda13", "13")):
        assert f"cupy-cuda{generation}x" in names(extra)
        pinned = [one for one in installed(extra) if one.name.startswith("nvidia-") and one.name not in common]
        # Compiler of CUDA C++, of NVVM's code, headers and runtime, linker.
        assert len(pinned) == 4
        for requirement in pinned:
            assert str(requirement.specifier).startswith(f"=={generation}."), requirement
            assert requirement.name.endswith("-cu12") == (generation == "12"), requirement


def test_the_extra_for_developers_has_what_the_commands_need_and_no_stand_in_for_a_gpu() -> None:
    assert names("dev") >= {"mkdocs", "mypy", "pytest", "pytest-cov", "ruff"} | names("fast") | names("docs")
    assert not [name for name in names("dev") if re.match("mlx|cupy|nvidia|.*cuda", name)]


@pytest.mark.parametrize("path", ["README.md", "CONTRIBUTING.md", *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md"))])
def test_pages_name_extras_that_exist(path: str) -> None:
    named = re.findall(r"pip install [^\n`]*?\[([a-z0-9,]+)\]", (ROOT / path).read_text())
    assert {extra for several in named for extra in several.split(",")} <= EXTRAS.keys()


def test_advice_in_errors_names_extras_that_exist() -> None:
    sources = "".join(path.read_text() for path in ROOT.glob("pydotcompute/**/*.py"))
    named = set(re.findall(r"pydotcompute\[([a-z0-9]+)\]", sources))
    assert {"cuda", "fast"} <= named <= EXTRAS.keys()


def test_the_page_about_installing_lists_every_extra() -> None:
    listed = re.findall(r"^\| `([a-z0-9]+)` \|", (ROOT / "docs/install.md").read_text(), re.MULTILINE)
    assert set(listed) == EXTRAS.keys()
