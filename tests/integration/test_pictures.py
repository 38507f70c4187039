"""The pictures of the documentation are what `docs/pictures/draw.py` draws, readable, complete, and shown with a description."""

from __future__ import annotations

import importlib.util
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest

from pydotcompute.core.unified_buffer import BufferState
from pydotcompute.ring_kernels.lifecycle import KernelState

DOCS = Path(__file__).resolve().parents[2] / "docs"
FOLDER = DOCS / "pictures"
SVG = "{http://www.w3.org/2000/svg}"


def load_draw() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw", FOLDER / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DRAW = load_draw()
NAMES = sorted(DRAW.PICTURES)


def texts(name: str) -> list[str]:
    return [str(text.text) for text in ET.parse(FOLDER / f"{name}.svg").iter(f"{SVG}text")]


def luminance(colour: str) -> float:
    """Relative luminance of a colour, as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_up_to_date(name: str) -> None:
    assert (FOLDER / f"{name}.svg").read_text() == str(DRAW.PICTURES[name]()), "run: python docs/pictures/draw.py"


def test_no_picture_is_left_over() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.svg")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_loads_nothing_and_has_a_title(name: str) -> None:
    text = (FOLDER / f"{name}.svg").read_text()
    assert re.findall(r"https?://[^\"]*|href|url\(|@import", text) == ["http://www.w3.org/2000/svg"]
    assert ET.fromstring(text).findtext(f"{SVG}title")


@pytest.mark.parametrize("colours", [DRAW.LIGHT, DRAW.DARK], ids=["light", "dark"])
def test_texts_and_arrows_have_the_contrast_that_wcag_asks_for(colours: dict[str, str]) -> None:
    for kind in ("background", "plain", "active", "ended", "failed"):
        assert contrast(colours["text"], colours[kind]) >= 7
    assert contrast(colours["faint"], colours["background"]) >= 4.5
    assert contrast(colours["message"], colours["plain"]) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_inside_the_picture(name: str) -> None:
    svg = ET.parse(FOLDER / f"{name}.svg").getroot()
    for text in svg.iter(f"{SVG}text"):
        kind = text.get("class", "").split()
        half = len(str(text.text)) * DRAW.CHARACTER * (DRAW.SMALL if "small" in kind else DRAW.SIZE) / 2
        middle = float(text.get("x", "0")) + (half if "left" in kind else 0)
        assert half + 4 <= middle <= float(svg.get("width", "0")) - half - 4, text.text


def test_the_states_are_those_of_the_package() -> None:
    assert {state.name for state in KernelState} <= set(texts("lifecycle"))
    assert {state.name for state in BufferState} <= set(texts("buffer-states"))


@pytest.mark.parametrize("name", NAMES)
def test_a_page_shows_the_picture_and_describes_it(name: str) -> None:
    shown = [re.search(rf"!\[([^\]]+)\]\(pictures/{name}\.svg\)", page.read_text()) for page in DOCS.glob("*.md")]
    assert [match[1] for match in shown if match is not None and len(match[1]) > 40], f"no page shows {name}.svg with a description"
