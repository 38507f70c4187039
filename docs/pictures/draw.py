"""Draws the pictures of the documentation, as SVG files in this folder.

    python docs/pictures/draw.py

A picture has its own background. The file has colours for light and for dark screens, and the browser chooses by the user's setting, so
text and background always fit together, on the site and on other pages. A test compares the files with what this script draws.

Not Mermaid: the theme of the site would load its script, of some megabytes, from another server.
"""

from __future__ import annotations

import math
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

FOLDER = Path(__file__).parent

# What is drawn: background, border of the background; fill and border of boxes of each kind; text; secondary text and arrows.
LIGHT = {
    "background": "#ffffff",
    "edge": "#d0d7de",
    "plain": "#eef2f7",
    "active": "#d9ecff",
    "ended": "#e9e4f5",
    "failed": "#ffe3e0",
    "message": "#2f7fd6",
    "outline": "#57606a",
    "text": "#1f2328",
    "faint": "#505a65",
}
DARK = {
    "background": "#161b22",
    "edge": "#3d444d",
    "plain": "#262d37",
    "active": "#123a63",
    "ended": "#352c52",
    "failed": "#5a1e1c",
    "message": "#4a9bf0",
    "outline": "#9aa4af",
    "text": "#f0f3f6",
    "faint": "#b0bac5",
}
SIZE, SMALL = 15, 13
# Width of a character, as a share of the font's size: more than that of common sans-serif fonts on average, so that texts fit.
CHARACTER = 0.58
BOX_HEIGHT = 46

Point = tuple[float, float]


def style() -> str:
    """Returns the style sheet of a picture."""

    def rules(colours: dict[str, str]) -> str:
        kinds = "".join(
            f".{kind}{{fill:{colours[kind]};stroke:{colours['outline']}}}" for kind in ("plain", "active", "ended", "failed", "message")
        )
        return (
            f".background{{fill:{colours['background']};stroke:{colours['edge']}}}{kinds}"
            f".region{{fill:none;stroke:{colours['outline']};stroke-dasharray:5 4}}"
            f".label{{fill:{colours['background']}}}.arrow{{fill:none;stroke:{colours['faint']};stroke-width:1.5}}"
            f".head{{fill:{colours['faint']}}}text{{fill:{colours['text']}}}.faint{{fill:{colours['faint']}}}"
        )

    fonts = f"text{{font:{SIZE}px system-ui,sans-serif;text-anchor:middle;dominant-baseline:central}}"
    sizes = f".small{{font-size:{SMALL}px}}.left{{text-anchor:start}}.bold{{font-weight:600}}"
    return f"{fonts}{sizes}{rules(LIGHT)}@media (prefers-color-scheme:dark){{{rules(DARK)}}}"


class Picture:
    """A drawing of boxes and arrows.

    Args:
        width: Width, in pixels.
        height: Height, in pixels.
        title: What it shows, for readers who do not see it.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        size = {"width": str(width), "height": str(height), "viewBox": f"0 0 {width} {height}"}
        self._svg = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size, "role": "img"})
        ET.SubElement(self._svg, "title").text = title
        ET.SubElement(self._svg, "style").text = style()
        self._rectangle("background", 0.5, 0.5, width - 1, height - 1, 8)

    def _rectangle(self, kind: str, x: float, y: float, width: float, height: float, radius: float = 0) -> None:
        place = {"x": f"{x:g}", "y": f"{y:g}", "width": f"{width:g}", "height": f"{height:g}", "rx": f"{radius:g}"}
        ET.SubElement(self._svg, "rect", {"class": kind, **place})

    def text(self, x: float, y: float, text: str, kind: str = "") -> None:
        """Writes a line. `kind` has words of the style sheet: small, faint, left, bold."""
        ET.SubElement(self._svg, "text", {"class": kind, "x": f"{x:g}", "y": f"{y:g}"}).text = text

    def box(self, x: float, y: float, text: str, kind: str = "plain", *, below: str = "", width: float = 150) -> None:
        """Draws a box around a point, with one line or two."""
        self._rectangle(kind, x - width / 2, y - BOX_HEIGHT / 2, width, BOX_HEIGHT, 6)
        self.text(x, y - (9 if below else 0), text, "bold")
        if below:
            self.text(x, y + 10, below, "small")

    def region(self, x: float, y: float, width: float, height: float, title: str, *, below: str = "") -> None:
        """Draws a dashed frame with a title, around boxes."""
        self._rectangle("region", x, y, width, height, 8)
        self.text(x + 14, y + 20, title, "left bold")
        if below:
            self.text(x + 14, y + 39, below, "left small faint")

    def ring(self, x: float, y: float, filled: int, slots: int = 6) -> None:
        """Draws a ring as a row of slots around a point, of which the last ones hold messages."""
        side = 16
        for slot in range(slots):
            kind = "message" if slot >= slots - filled else "plain"
            self._rectangle(kind, x + (slot - slots / 2) * side, y - side / 2, side, side)

    def arrow(self, start: Point, end: Point, label: str = "", *, at: float = 0.5, dashed: bool = False) -> None:
        """Draws an arrow, with a label on it at a share of its length."""
        angle = math.atan2(end[1] - start[1], end[0] - start[0])
        neck = (end[0] - 8 * math.cos(angle), end[1] - 8 * math.sin(angle))
        dashes = {"stroke-dasharray": "5 4"} if dashed else {}
        ends = {"x1": f"{start[0]:.1f}", "y1": f"{start[1]:.1f}", "x2": f"{neck[0]:.1f}", "y2": f"{neck[1]:.1f}"}
        ET.SubElement(self._svg, "line", {"class": "arrow", **ends, **dashes})
        wings = [(end[0] - 10 * math.cos(angle + turn), end[1] - 10 * math.sin(angle + turn)) for turn in (-0.4, 0.4)]
        ET.SubElement(self._svg, "polygon", {"class": "head", "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in (end, *wings))})
        if label:
            x, y = start[0] + at * (end[0] - start[0]), start[1] + at * (end[1] - start[1])
            width = len(label) * SMALL * CHARACTER + 6
            self._rectangle("label", x - width / 2, y - 9, width, 18)
            self.text(x, y, label, "small faint")

    def __str__(self) -> str:
        ET.indent(self._svg, " ")
        return ET.tostring(self._svg, encoding="unicode") + "\n"


def lifecycle() -> Picture:
    """States of a ring kernel, and what changes them."""
    picture = Picture(960, 330, "States of a ring kernel, and the calls that change them")
    top, bottom = 70, 220
    created, launched, active, deactivated = 100, 330, 570, 850
    picture.box(created, top, "CREATED")
    picture.box(launched, top, "LAUNCHED")
    picture.box(active, top, "ACTIVE", "active")
    picture.box(deactivated, top, "DEACTIVATED")
    picture.box(launched, bottom, "FAILED", "failed")
    picture.box(active, bottom, "TERMINATING", "ended")
    picture.box(deactivated, bottom, "TERMINATED", "ended")
    picture.arrow((created + 75, top), (launched - 75, top), "launch")
    picture.arrow((launched + 75, top), (active - 75, top), "activate")
    picture.arrow((active + 75, top - 11), (deactivated - 75, top - 11), "deactivate")
    picture.arrow((deactivated - 75, top + 11), (active + 75, top + 11), "reactivate")
    picture.arrow((active - 50, top + 23), (launched + 40, bottom - 23), "the function raises")
    picture.arrow((active, top + 23), (active, bottom - 23), "terminate")
    picture.arrow((active + 50, top + 23), (deactivated - 40, bottom - 23), "the function returns")
    picture.arrow((launched + 75, bottom), (active - 75, bottom), "terminate")
    picture.arrow((active + 75, bottom), (deactivated - 75, bottom), "it has ended")
    picture.text(
        480, 288, "terminate works in every state. Supervision restarts a function that raises; the state stays ACTIVE then.", "small faint"
    )
    return picture


def tiers() -> Picture:
    """Where the function of a ring kernel runs in each tier."""
    picture = Picture(960, 345, "Where the function of a ring kernel runs in each tier")
    picture.region(20, 20, 700, 305, "your process")
    picture.region(40, 55, 320, 250, "Python", below="one thread at a time holds the GIL")
    picture.box(200, 150, "coroutines", "active", below="RingKernelRuntime", width=280)
    picture.text(200, 188, "all on the thread of the event loop", "small faint")
    picture.box(200, 245, "one thread each", "active", below="ThreadedRingKernel, CythonRingKernel", width=280)
    picture.text(200, 283, "waits without the GIL", "small faint")
    picture.region(380, 55, 320, 250, "machine code", below="without the GIL")
    picture.box(540, 150, "a pool of threads", "active", below='NativeKernel, device="cpu"', width=280)
    picture.text(540, 188, "or on the thread of a caller that asks", "small faint")
    picture.box(540, 255, "device proxy", below="passes messages on", width=280)
    picture.region(740, 195, 200, 110, "GPU")
    picture.box(840, 255, "resident kernel", "active", below='device="cuda"', width=170)
    picture.arrow((680, 248), (755, 248))
    picture.arrow((755, 262), (680, 262))
    picture.region(740, 20, 200, 150, "another process")
    picture.box(840, 85, "any program", "active", below="SharedQueue", width=170)
    picture.text(840, 127, "a ring in shared memory,", "small faint")
    picture.text(840, 145, "to or from your process", "small faint")
    return picture


def pipeline() -> Picture:
    """Two ring kernels with bounded queues, and how a slow stage slows the others."""
    picture = Picture(960, 220, "A pipeline of two ring kernels with bounded queues")
    y = 90
    picture.box(75, y, "source", below="sends", width=110)
    picture.ring(210, y, 6)
    picture.box(345, y, "parse", "active", width=110)
    picture.ring(480, y, 6)
    picture.box(615, y, "average", "active", width=110)
    picture.ring(750, y, 2)
    picture.box(885, y, "sink", below="receives", width=110)
    for left in (130, 400, 670):
        picture.arrow((left, y), (left + 32, y))
        picture.arrow((left + 128, y), (left + 160, y))
    picture.text(210, y - 28, "input queue, full", "small faint")
    picture.text(480, y - 28, "queue between, full", "small faint")
    picture.text(750, y - 28, "output queue", "small faint")
    picture.arrow((570, 140), (390, 140), dashed=True)
    picture.text(480, 158, "a full queue makes the stage before wait", "small faint")
    picture.arrow((300, 140), (120, 140), dashed=True)
    picture.text(210, 158, "and so on, to the source", "small faint")
    picture.text(655, 126, "the slowest stage", "small faint")
    picture.text(480, 192, "Memory stays bounded, and the whole pipeline runs at the pace of its slowest stage.", "small faint")
    return picture


def buffer_states() -> Picture:
    """States of a `UnifiedBuffer` on a machine with a GPU."""
    picture = Picture(960, 430, "States of a UnifiedBuffer on a machine with a GPU")
    none, both, dirty = 105, 440, 840
    top, middle, bottom = 55, 185, 315
    picture.box(none, middle, "UNINITIALIZED", "ended", below="no copy")
    picture.box(both, top, "HOST_ONLY", below="one copy", width=170)
    picture.box(both, middle, "SYNCHRONIZED", "active", below="two equal copies", width=170)
    picture.box(both, bottom, "DEVICE_ONLY", below="one copy", width=170)
    picture.box(dirty, top, "HOST_DIRTY", below="the device copy is stale", width=190)
    picture.box(dirty, bottom, "DEVICE_DIRTY", below="the host copy is stale", width=190)
    picture.arrow((none + 40, middle - 23), (both - 85, top), "allocate(device=False)")
    picture.arrow((none + 75, middle), (both - 85, middle), "allocate()")
    picture.arrow((none + 40, middle + 23), (both - 85, bottom), "allocate(host=False)")
    picture.arrow((both, top + 23), (both, middle - 23), "device is read")
    picture.arrow((both, bottom - 23), (both, middle + 23), "host is read")
    picture.arrow((both + 60, middle - 23), (dirty - 95, top), "mark_host_dirty()", at=0.6)
    picture.arrow((dirty, top + 23), (both + 85, middle - 8), "device is read", at=0.45)
    picture.arrow((both + 60, middle + 23), (dirty - 95, bottom), "mark_device_dirty()", at=0.6)
    picture.arrow((dirty, bottom - 23), (both + 85, middle + 8), "host is read", at=0.45)
    notes = (
        "Reading a stale copy updates it first. synchronize() does so without reading; free() leads to UNINITIALIZED.",
        "Marking the other copy discards what was not copied yet.",
        "fill, copy_from and buffer[i] = x mark by themselves.",
    )
    for line, note in enumerate(notes):
        picture.text(480, 368 + 20 * line, note, "small faint")
    return picture


PICTURES = {"lifecycle": lifecycle, "tiers": tiers, "pipeline": pipeline, "buffer-states": buffer_states}


def main() -> int:
    """Write every picture."""
    for name, draw in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(str(draw()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
