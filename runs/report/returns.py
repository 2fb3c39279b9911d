"""Pictures of returns: training over environment steps, and the evaluation matrix of each arm."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np

from .comparison import BINS, Comparison
from .looks import INK, count_of, legend, looks, over_runs, thousands
from .picture import PANEL, WIDE, Picture, missing, panel_of, picture, slug


def learning_curves(comparison: Comparison) -> Picture:
    """Training return over environment steps, a line per arm, a band from its lowest to its highest seed."""
    styles = looks(comparison)
    steps = np.concatenate(
        [
            np.linspace(first, last, BINS + 1)[1:]
            for first, last in zip(comparison.boundaries, comparison.boundaries[1:], strict=False)
        ]
    )
    rows: list[tuple[Any, ...]] = []
    with panel_of(WIDE) as (figure, panel):
        for arm in comparison.arms:
            curves = np.stack([comparison.curve(run) for run in arm.runs])  # [runs, N, BINS]
            middle, low, high = over_runs(curves)
            look = styles[arm.label]
            for task in range(comparison.task_count):  # a line per task: a switch is no slope
                place = slice(task * BINS, (task + 1) * BINS)
                label = arm.label if task == 0 else "_"
                panel.plot(steps[place], middle[task], look.dash, color=look.colour, label=label)
                if len(arm.runs) > 1:
                    panel.fill_between(
                        steps[place], low[task], high[task], color=look.colour, alpha=0.16, linewidth=0
                    )
            for run, curve in zip(arm.runs, curves, strict=True):
                rows += [
                    (arm.label, run.seed, task, int(step), value)
                    for task in range(comparison.task_count)
                    for step, value in zip(
                        steps[task * BINS : (task + 1) * BINS], curve[task].tolist(), strict=True
                    )
                    if not missing(value)
                ]
        for step in comparison.boundaries[1:-1]:
            panel.axvline(step, color="#a3a9b3", linewidth=0.8, linestyle=":", zorder=0.5)
        panel.set_xlim(0, comparison.boundaries[-1])
        panel.xaxis.set_major_formatter(thousands)
        panel.set_xlabel("environment steps")
        panel.set_ylabel("training return")
        legend(figure)
    return picture(
        figure,
        "return",
        "Return over environment steps",
        "Mean over seeds; the band runs from the lowest seed to the highest. Dotted lines are switches"
        + (
            "; grey and dashed: a fresh agent at every task."
            if any(a.fresh for a in comparison.arms)
            else "."
        ),
        ("arm", "seed", "task", "env_steps", "return"),
        rows,
        wide=True,
    )


def evaluation_matrices(comparison: Comparison) -> list[Picture]:
    """A heat map per arm: return on each task after each task, mean over seeds."""
    means = {}
    for arm in comparison.arms:
        tables = [table for run in arm.runs if (table := comparison.matrix(run)) is not None]
        if tables:
            means[arm.label] = (over_runs(np.stack(tables))[0], count_of(np.stack(tables)))
    known = [table[np.isfinite(table)] for table, _ in means.values()]
    if not known or not np.concatenate(known).size:
        return []
    values = np.concatenate(known)
    low, high = float(values.min()), float(values.max())
    if comparison.bounds is not None and len(set(comparison.bounds)) == 1:
        low, high = comparison.bounds[0]
    pictures = []
    for label, (table, seeds) in means.items():
        n = comparison.task_count
        with panel_of((PANEL[0], PANEL[0] * 0.92)) as (figure, panel):
            panel.grid(False)
            image = panel.imshow(table, cmap="cividis", vmin=low, vmax=max(high, low + 1e-9), aspect="auto")
            panel.set_facecolor("#f1f2f4")
            for task in range(n):  # what was just trained
                panel.add_patch(
                    mpl.patches.Rectangle(
                        (task - 0.5, task + 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=1.1
                    )
                )
            if n <= 8:
                for after, on in np.argwhere(np.isfinite(table)):
                    shade = (table[after, on] - low) / max(high - low, 1e-9)
                    panel.text(
                        on,
                        after,
                        f"{table[after, on]:.3g}",
                        ha="center",
                        va="center",
                        fontsize=8.5,
                        color="white" if shade < 0.55 else INK,
                    )
            every = max(1, -(-n // 10))
            panel.set_xticks(range(0, n, every), [str(task) for task in range(0, n, every)])
            panel.set_yticks(
                [0, *range(1, n + 1, every)], ["untrained", *(str(task) for task in range(0, n, every))]
            )
            panel.set_xlabel("on task")
            panel.set_ylabel("after task")
            panel.set_title(label)
            bar = figure.colorbar(image, ax=panel, fraction=0.05, pad=0.03)
            bar.outline.set_visible(False)
            bar.ax.tick_params(labelsize=8)
        rows = [
            (label, after - 1, on, table[after, on] if np.isfinite(table[after, on]) else None)
            for after in range(n + 1)
            for on in range(n)
        ]
        pictures.append(
            picture(
                figure,
                f"evaluation-{slug(label)}",
                f"Evaluation: {label}",
                f"Return of the {comparison.policy} policy, mean over {seeds}. "
                "Outlined: the task that was just trained; grey: not evaluated.",
                ("arm", "after_task", "on_task", "return"),
                rows,
            )
        )
    return pictures
