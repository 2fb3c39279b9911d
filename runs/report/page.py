"""One self-contained HTML file about several runs, from their folders alone.

The page asks nothing of the network: pictures, numbers, videos, style and script are in it. Everything shown
is escaped; markup comes only from the templates and from :mod:`.picture`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..errors import DamagedFile, RunFolderError
from ..presets import dump
from ..reading import checked_size
from ..words import duration, number
from .comparison import RETURN, Comparison, gather
from .grouping import differences
from .looks import DASHES, looks
from .over_switches import instruments
from .picture import Picture
from .ranks import correlations, rank_against_return
from .records import VIDEOS
from .returns import evaluation_matrices, learning_curves
from .spectra import spectra
from .statistics import LEAST_RUNS

MOST_VIDEO_BYTES = 6_000_000
"""Of all embedded replays together; base64 makes a third more of them. The report is to stay below 15 MB."""


def write_report(paths: Sequence[Path], out: Path) -> Path:
    """Write the report of the runs at ``paths`` to the new file ``out``.

    Raises:
        RunFolderError: ``out`` is there already or cannot be written, and as :func:`gather`.
        Incomparable: as :func:`gather`.
    """
    if out.exists():
        raise RunFolderError(
            f"{str(out)!r} is there already and is left as it is; name another file with --out"
        )
    comparison, problems = gather(paths)
    page = render(comparison, problems)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("x", encoding="utf-8") as file:
            file.write(page)
    except OSError as error:
        raise RunFolderError(f"the report cannot be written to {str(out)!r}: {error.strerror}") from None
    return out


def first_free(out: Path) -> Path:
    """``out``, or the first of ``out-2``, ``out-3``, ... that is not there yet."""
    number, path = 1, out
    while path.exists():
        number += 1
        path = out.with_stem(f"{out.stem}-{number}")
    return path


def render(comparison: Comparison, problems: Sequence[str] = ()) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("pliant.runs.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "steps": lambda value: f"{value:,}",
        "duration": duration,
        "csv_link": lambda picture: _data("text/csv", picture.csv.encode()),
        "pdf_link": lambda picture: _data("application/pdf", picture.pdf),
        "markup": Markup,
    }
    return environment.get_template("report.html.j2").render(_content(comparison, problems))


def _content(comparison: Comparison, problems: Sequence[str]) -> dict[str, Any]:
    """All that the template shows."""
    first = comparison.first
    videos, left_out = _videos(comparison)
    matrices = evaluation_matrices(comparison)
    return {
        "title": " and ".join(sorted({str(run.manifest.get("preset", "?")) for run in comparison.runs})),
        "description": first.spec.description if first.spec else "",
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": metadata.version("pliant"),
        "comparison": comparison,
        "looks": looks(comparison),
        "dashes": DASHES,
        "problems": problems,
        "notes": [*comparison.notes, *_failures(comparison), *left_out],
        "least_runs": LEAST_RUNS,
        "headline": [(arm, comparison.summary(RETURN, arm)) for arm in comparison.arms],
        "curves": learning_curves(comparison),
        "matrices": matrices,
        "matrix_tables": [_as_table(picture, comparison.task_count) for picture in matrices],
        "spectra": spectra(comparison),
        "last_switch": max(
            (
                task
                for run in comparison.runs
                for (task, when), m in run.moments.items()
                if when == "init" and m.spectra
            ),
            default=0,
        ),
        "switches": [_task_name(comparison, task) for task in range(comparison.task_count)],
        "against": rank_against_return(comparison),
        "correlations": correlations(comparison),
        "instruments": instruments(comparison),
        "videos": videos,
        "differences": differences(comparison.arms),
        "specs": [(arm, dump(arm.runs[0].spec)) for arm in comparison.arms if arm.runs[0].spec],
        "versions": _versions(comparison),
        "style": Markup(_template("report.css")),
        "script": Markup(_template("report.js")),
    }


def _task_name(comparison: Comparison, task: int) -> str:
    tasks = comparison.first.tasks
    return tasks[task].name if task < len(tasks) else f"task {task}"


def _as_table(picture: Picture, tasks: int) -> tuple[Picture, list[tuple[str, list[float | None]]]]:
    """The heat map's numbers in its own order: a row per checkpoint."""
    values = [row[-1] for row in picture.rows]
    names = ["untrained", *(f"task {task}" for task in range(tasks))]
    return picture, [(name, values[i * tasks : (i + 1) * tasks]) for i, name in enumerate(names)]


def _versions(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Versions of every package, all that were used."""
    found: dict[str, dict[str, None]] = {}
    for run in comparison.runs:
        listed = run.manifest.get("versions")
        about = {
            "python": run.manifest.get("python"),
            **(listed if isinstance(listed, Mapping) else {}),
            "git commit": run.manifest.get("git_commit"),
        }
        for package, version in about.items():
            found.setdefault(str(package), {})[str(version or "unknown")] = None
    return [(package, list(versions)) for package, versions in found.items()]


def _failures(comparison: Comparison) -> list[str]:
    return [
        f"{run.id}, task {task}, {moment}: {instrument} could not be measured ({reason})"
        for run in comparison.runs
        for (task, moment), found in run.moments.items()
        for instrument, reason in found.failures.items()
    ]


def _videos(comparison: Comparison) -> tuple[list[dict[str, str]], list[str]]:
    """Replays as data, until there is no room for more; what was left out, as notes."""
    shown: list[dict[str, str]] = []
    left_out: list[str] = []
    room = MOST_VIDEO_BYTES
    for run in comparison.runs:
        for path in run.videos:
            try:
                fits = checked_size(path, 2**62) <= room
                content = path.read_bytes() if fits else b""
            except OSError as error:
                left_out.append(f"{str(path)!r} cannot be read: {error.strerror}")
                continue
            except DamagedFile as error:
                left_out.append(str(error))
                continue
            if not fits:
                left_out.append(f"{str(path)!r} is left out of the page, which would become too large")
                continue
            room -= len(content)
            kind = VIDEOS[path.suffix.lower()]
            shown.append({"run": run.id, "name": path.name, "kind": kind, "link": _data(kind, content)})
    return shown, left_out


def _data(kind: str, content: bytes) -> str:
    """A data URI; text stays text where that is shorter."""
    if kind.startswith("text/"):
        return f"data:{kind};charset=utf-8,{quote(content, safe=' ,.-+:;()/')}"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _template(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
