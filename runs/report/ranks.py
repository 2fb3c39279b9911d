"""The epsilon-rank before a task against the return that came of it: which rank, picture, correlation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .comparison import Comparison
from .looks import legend, looks
from .picture import PANEL, Picture, panel_of, picture
from .records import RunRecord
from .statistics import LEAST_RUNS, Interval, spearman_interval

Array = NDArray[np.float64]


def rank_tags(comparison: Comparison) -> dict[str, str]:
    """By part, the tag of the epsilon-rank that is shown.

    The first threshold of the spec that every spectrum of the part resolves; absolute ones before those
    relative to the norm. Nothing is chosen by what it shows: the table of correlations has them all.
    """
    resolved: dict[str, dict[str, int]] = {}
    total: dict[str, int] = {}
    for run in comparison.runs:
        for (_, moment), found in run.moments.items():
            if moment != "init":
                continue
            for part in found.spectra:
                total[part] = total.get(part, 0) + 1
            for tag in found.scalars:
                match = re.fullmatch(r"spectrum/([^/]+)/((?:epsilon|relative)_rank_[^_]+)", tag)
                if match:
                    counts = resolved.setdefault(match[1], {})
                    counts[tag] = counts.get(tag, 0) + 1
    return {
        part: next(
            (tag for tag, n in counts.items() if n == total[part]), max(counts, key=lambda t: counts[t])
        )
        for part, counts in resolved.items()
        if "." not in part and part in total  # spectra of single layers stay in the files
    }


def tag_title(tag: str) -> str:
    """``spectrum/actor/epsilon_rank_0.01`` -> ``rank beyond 0.01``."""
    name = tag.rsplit("/", 1)[1]
    kind, threshold = name.rsplit("_", 1)
    return f"rank beyond {threshold}" + (" of the norm" if kind == "relative_rank" else "")


@dataclass(frozen=True)
class Correlation:
    """Epsilon-rank at a switch against the return of the task that began there."""

    part: str
    threshold: str
    points: int
    interval: Interval


def correlations(comparison: Comparison) -> list[Correlation]:
    """Spearman's correlation for every part and threshold, tasks and runs of all arms together."""
    finals = {run.id: comparison.final_returns(run) for run in comparison.runs}
    tags = sorted(
        {
            tag
            for run in comparison.runs
            for found in run.moments.values()
            for tag in found.scalars
            if re.fullmatch(r"spectrum/[^/.]+/(epsilon|relative)_rank_[^_]+", tag)
        }
    )
    return [row for tag in tags if (row := _correlation(comparison, tag, finals))]


def _correlation(comparison: Comparison, tag: str, finals: Mapping[str, Array]) -> Correlation | None:
    """None from fewer than ``LEAST_RUNS`` seeds: arms of one seed begin with the same network."""
    points = [_points(run, tag, finals)[:2] for run in comparison.runs]
    seeds = {run.seed for run, (ranks, _) in zip(comparison.runs, points, strict=True) if ranks}
    if len(seeds) < LEAST_RUNS:
        return None
    interval = spearman_interval(points)
    if not np.isfinite(interval.value):
        return None
    return Correlation(tag.split("/")[1], tag_title(tag), sum(len(x) for x, _ in points), interval)


def rank_against_return(comparison: Comparison) -> list[Picture]:
    """A point per task and run: epsilon-rank before the first update, its bracket, and what came of it."""
    styles, pictures = looks(comparison), []
    finals = {run.id: comparison.final_returns(run) for run in comparison.runs}
    for part, tag in sorted(rank_tags(comparison).items()):
        rows: list[tuple[Any, ...]] = []
        with panel_of(PANEL) as (figure, panel):
            for arm in comparison.arms:
                look = styles[arm.label]
                joined: list[NDArray[Any]] = []
                for run in arm.runs:
                    points = np.array(_points(run, tag, finals))  # [rank return low high task]
                    joined.append(points)
                    rows += [
                        (arm.label, run.seed, int(task), rank, low, high, value)
                        for rank, value, low, high, task in points.T.tolist()
                    ]
                rank, value, low, high, _ = np.concatenate(joined, axis=1)
                if not len(rank):
                    continue
                panel.errorbar(
                    rank,
                    value,
                    xerr=np.maximum([rank - low, high - rank], 0.0),
                    fmt=look.marker,
                    color=look.colour,
                    markersize=4.5,
                    elinewidth=0.8,
                    alpha=0.85,
                    label=arm.label,
                )
            panel.set_title(part)
            panel.set_xlabel(f"{tag_title(tag)} (share of eigenvalues)")
            panel.set_ylabel("return at the end of the task")
            legend(figure)
        if rows:
            columns = ("arm", "seed", "task", "rank", "low", "high", "return")
            name = f"rank-against-return-{part}"
            found = _correlation(comparison, tag, finals)
            caption = f"Spearman's correlation {found.interval}" if found else ""
            pictures.append(picture(figure, name, f"Rank against return: {part}", caption, columns, rows))
    return pictures


def _points(
    run: RunRecord, tag: str, finals: Mapping[str, Array]
) -> tuple[list[float], list[float], list[float], list[float], list[int]]:
    """Rank, return, the bracket's ends and the task, of every finished task of a run."""
    rows = []
    for task in range(run.task_count):
        moment, value = run.moments.get((task, "init")), float(finals[run.id][task])
        if moment is None or tag not in moment.scalars or not np.isfinite(value):
            continue
        rank = moment.scalars[tag]
        ends = (moment.scalars.get(f"{tag}_{end}", rank) for end in ("low", "high"))
        rows.append((rank, value, *ends, task))
    ranks, values, lows, highs, tasks = zip(*rows, strict=True) if rows else ((),) * 5
    return list(ranks), list(values), list(lows), list(highs), list(tasks)
