"""A picture of the report: SVG that stands in the page, PDF to keep, and its numbers as rows."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf, PdfPages
from matplotlib.figure import Figure

from .looks import GRID, INK, SOFT

PANEL = (4.6, 3.1)
WIDE = (10.6, 3.7)

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the reader's own font
    # Helvetica, which every reader of PDF has: embedding a font took half the time of the whole report.
    "pdf.use14corefonts": True,
    "axes.unicode_minus": False,  # the standard fonts of PDF have no such character
    "font.size": 10.0,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.6,
    "path.simplify_threshold": 0.2,
}


@dataclass(frozen=True)
class Picture:
    """One picture of the report.

    Attributes:
        name: of its files and of its place in the page.
        title: above it.
        caption: below it.
        svg: markup to stand in HTML.
        pdf: to keep; pictures that change with the slider have a page for every switch.
        columns: of its numbers.
        rows: its numbers.
        wide: whether it takes the whole width.
    """

    name: str
    title: str
    caption: str
    svg: str
    pdf: bytes
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    wide: bool = False

    @property
    def csv(self) -> str:
        """Its numbers as a CSV file."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([["" if missing(cell) else cell for cell in row] for row in self.rows])
        return text.getvalue()


@contextmanager
def panel_of(size: tuple[float, float]) -> Iterator[tuple[Figure, Axes]]:
    """A figure of one panel, in inches, in the report's style."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, figure.subplots()


def picture(
    figure: Figure,
    name: str,
    title: str,
    caption: str,
    columns: Sequence[str],
    rows: list[tuple[Any, ...]],
    *,
    wide: bool = False,
) -> Picture:
    """Draw the figure, as SVG and as PDF."""
    name = slug(name)
    svg = io.StringIO()
    # The salt makes ids the same every time, and the prefix makes them this picture's alone.
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        FigureCanvasAgg(figure)
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.set_layout_engine("none")  # the places that it found stay
        pdf = _pdf(figure, title)
    return Picture(
        name, title, caption, _inline(svg.getvalue(), name, title), pdf, tuple(columns), rows, wide
    )


def _pdf(figure: Figure, title: str) -> bytes:
    """The figure as PDF: one page, or a page for every switch that its artists belong to."""
    frames: dict[str, list[Artist]] = {}
    for artist in figure.findobj(lambda one: (one.get_gid() or "").startswith("switch-")):
        frames.setdefault(str(artist.get_gid()).split("-")[1], []).append(artist)
    heading = figure.axes[0].get_title(loc="left")
    file = io.BytesIO()
    canvas = FigureCanvasPdf(figure)  # its own print_pdf draws once, where savefig draws twice
    with (
        _quiet("matplotlib.font_manager"),  # Helvetica calls its normal weight medium
        PdfPages(file, metadata={"CreationDate": None, "Title": title}) as pages,
    ):
        for task in sorted(frames, key=int) or [""]:
            for frame, artists in frames.items():
                for artist in artists:
                    artist.set_visible(frame == task)
            if task:
                figure.axes[0].set_title(f"{heading} at the switch to task {task}")
            canvas.print_pdf(pages)  # type: ignore[no-untyped-call]
    return file.getvalue()


def _inline(svg: str, name: str, title: str) -> str:
    """An SVG file as markup in a page: ids of its own, shorter numbers, the reader's fonts, a name."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'="[^"]*\d\.\d{3}[^"]*"', lambda m: re.sub(r"(\d\.\d{2})\d+", r"\1", m[0]), svg)
    svg = re.sub(r"\n+\s*", "\n", svg)
    # Only the frame of the last switch is seen until the slider moves.
    last = max((int(task) for task in re.findall(rf'<g id="{name}-switch-(\d+)-\d+">', svg)), default=0)
    svg = re.sub(
        rf'<g id="{name}-switch-(\d+)-(\d+)">',
        lambda m: (
            f'<g id="{name}-switch-{m[1]}-{m[2]}" data-switch="{m[1]}"'
            + (">" if int(m[1]) == last else ' style="display:none">')
        ),
        svg,
    )
    svg = re.sub(
        r"(font(?:-family)?: [^;\"]*?)'DejaVu Sans'[^;\"]*",
        r"\1system-ui, 'Helvetica Neue', Arial, sans-serif",
        svg,
    )
    width, height = re.findall(r'(?:width|height)="([\d.]+)pt"', svg)[:2]
    svg = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace(
        "<svg", f'<svg role="img" aria-label="{_attribute(title)}" data-size="{width} {height}"', 1
    )


def missing(value: Any) -> bool:
    """Whether there is nothing to write in a cell."""
    return value is None or (isinstance(value, float) and not np.isfinite(value))


def slug(text: str) -> str:
    """``text`` as a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "picture"


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
