"""Pictures of what was measured at every switch: epsilon-ranks, feature ranks, dead units, norms."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from .comparison import Comparison
from .looks import legend, looks, over_runs
from .picture import PANEL, Picture, panel_of, picture, slug
from .ranks import rank_tags, tag_title

_QUANTITIES = (
    # What is read of a snapshot's scalars, where, and what it is called.
    (r"plasticity/([^/]+)/(.+/)?\d+/effective_rank", "effective feature rank", "units' worth of directions"),
    (r"plasticity/([^/]+)/(.+/)?\d+/dead", "dead units", "share of the layer"),
    (r"plasticity/([^/]+)/weight_norm", "weight norm", "norm"),
)


def instruments(comparison: Comparison) -> list[Picture]:
    """Ranks, dead units and norms at every switch, before the first update on the new task."""
    pictures = []
    for part, tag in sorted(rank_tags(comparison).items()):
        picture = _over_switches(
            comparison,
            f"rank-{part}",
            f"{tag_title(tag)}: {part}",
            "share of eigenvalues",
            partial(_scalar, tag=tag),
            partial(_bracket, tag=tag),
        )
        if picture:
            pictures.append(picture)
    tags = sorted({tag for run in comparison.runs for m in run.moments.values() for tag in m.scalars})
    for pattern, title, unit in _QUANTITIES:
        networks = sorted({found[1] for tag in tags if (found := re.fullmatch(pattern, tag))})
        for network in networks:
            picture = _over_switches(
                comparison,
                f"{slug(title)}-{network}",
                f"{title}: {network}",
                unit,
                _mean_of(pattern.replace("([^/]+)", re.escape(network))),
            )
            if picture:
                pictures.append(picture)
    return pictures


def _scalar(scalars: Mapping[str, float], tag: str) -> float | None:
    return scalars.get(tag)


def _bracket(scalars: Mapping[str, float], tag: str) -> tuple[float | None, float | None]:
    return scalars.get(f"{tag}_low"), scalars.get(f"{tag}_high")


def _mean_of(pattern: str) -> Callable[[Mapping[str, float]], float | None]:
    def value(scalars: Mapping[str, float]) -> float | None:
        found = [number for tag, number in scalars.items() if re.fullmatch(pattern, tag)]
        return float(np.mean(found)) if found else None

    return value


def _over_switches(
    comparison: Comparison,
    name: str,
    title: str,
    unit: str,
    read: Callable[[Mapping[str, float]], float | None],
    bracket: Callable[[Mapping[str, float]], tuple[float | None, float | None]] | None = None,
) -> Picture | None:
    styles, rows, drawn = looks(comparison), list[tuple[Any, ...]](), False
    tasks = np.arange(comparison.task_count)
    with panel_of(PANEL) as (figure, panel):
        for arm in comparison.arms:
            values = np.full((3, len(arm.runs), len(tasks)), np.nan)
            for index, run in enumerate(arm.runs):
                for task in tasks:
                    moment = run.moments.get((int(task), "init"))
                    value = read(moment.scalars) if moment else None
                    if moment is None or value is None:
                        continue
                    ends = bracket(moment.scalars) if bracket else (None, None)
                    values[:, index, task] = [value, *(value if end is None else end for end in ends)]
                    rows.append((arm.label, run.seed, int(task), value, *(ends if bracket else ())))
            if not np.isfinite(values).any():
                continue
            drawn = True
            middle, low, high = over_runs(values[0])
            if bracket:
                low, high = over_runs(values[1])[1], over_runs(values[2])[2]
            look = styles[arm.label]
            panel.plot(
                tasks, middle, look.dash, color=look.colour, marker=look.marker, markersize=4, label=arm.label
            )
            panel.fill_between(tasks, low, high, color=look.colour, alpha=0.16, linewidth=0)
        if not drawn:
            return None
        panel.set_title(title)
        panel.set_xlabel("switch to task")
        panel.set_ylabel(unit)
        panel.set_ylim(bottom=min(0.0, panel.get_ylim()[0]))
        panel.set_xlim(-0.5, len(tasks) - 0.5)  # all tasks, also where one alone was measured
        panel.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
        legend(figure)
    columns = ("arm", "seed", "task", "value", *(("low", "high") if bracket else ()))
    return picture(figure, name, title, "", columns, rows)
