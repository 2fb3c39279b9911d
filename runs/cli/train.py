"""``pliant train``, which is ``train-agent``."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..seeds import parse_seeds
from .console import FAILED, INTERRUPTED, Data, Device, Usage, err, out, plain_table, until_ctrl_c

if TYPE_CHECKING:
    from torch import Tensor

    from ..execute import Outcome
    from ..plan import Plan


def train(
    preset: Annotated[
        str | None,
        typer.Argument(help="A shipped preset (see --list) or the path of a TOML file.", show_default=False),
    ] = None,
    arm: Annotated[
        str | None, typer.Option(help="Named set of mitigations: bp, l2, er, l2-er, reset, ... (see --list)")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: agent.learning_rate=1e-4"),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the run.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Several runs side by side, one process each: 0-4 or 0,3,7")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="How many of them at a time; all cores by default.")
    ] = None,
    device: Annotated[
        Device, typer.Option(help="auto: CPU for MLPs, a GPU if there is one for CNNs.")
    ] = "auto",
    folder: Annotated[Path, typer.Option("--out", help="Where run folders are made.")] = Path("results"),
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with an interrupted run.")] = None,
    list_presets: Annotated[bool, typer.Option("--list", help="List the presets and arms and stop.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Print the resolved spec and the tasks, and stop.")] = False,
    from_sb3: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Begin with the networks of a zip of stable-baselines3."),
    ] = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="You trust whoever made the file of --from-sb3.")
    ] = False,
    data: Data = None,
) -> None:
    """Train an agent through a sequence of shifting environments."""
    if list_presets:
        _print_presets()
    elif resume is not None:
        _resume(resume, device, preset, arm, settings, seed, seeds, from_sb3)
    elif preset is None:
        raise Usage(
            "name a preset, for example `train-agent quickstart`; `train-agent --list` shows them all"
        )
    elif seed is not None and seeds is not None:
        raise Usage("give --seed or --seeds, not both")
    else:
        _start(
            preset,
            arm,
            settings or [],
            [seed] if seeds is None else parse_seeds(seeds),
            jobs,
            device,
            folder,
            dry_run,
            None if from_sb3 is None else (from_sb3, trust_pickle),
        )


def _start(
    preset: str,
    arm: str | None,
    settings: Sequence[str],
    seeds: Sequence[int | None],
    jobs: int | None,
    device: Device,
    folder: Path,
    dry_run: bool,
    from_sb3: tuple[Path, bool] | None,
) -> None:
    from ..presets import load_spec

    specs = [load_spec(preset, arm=arm, settings=settings, seed=seed) for seed in seeds]

    # Everything is checked before the first file is written. (torch is imported from here on.)
    from ..plan import make_plan

    plans = [make_plan(spec, device) for spec in specs]
    networks = None if from_sb3 is None else _networks(plans[0], *from_sb3)
    if dry_run:
        _print_plan(plans[0])
        return
    from ..execute import available_cores
    from ..folder import RunFolder
    from ..resources import check_disk, check_memory, expected_needs

    needs = expected_needs(plans[0])
    check_memory(needs, min(jobs or available_cores(), len(plans)))
    if warning := check_disk(needs, folder, len(plans)):
        err.print(f"warning: {warning}", markup=False, soft_wrap=True)
    _print_notes(plans[0])
    runs = [RunFolder.create(folder, plan.spec, plan.boundaries).path for plan in plans]
    if networks is not None:
        from ..checkpoints.sb3 import begin_with

        for run in runs:
            begin_with(RunFolder(run), networks)
    _carry_out(runs, device, jobs=jobs)


def _networks(plan: Plan, path: Path, trusted: bool) -> dict[str, Tensor]:
    """Those of a file of stable-baselines3, to begin with."""
    from ..checkpoints.sb3 import read_sb3_networks

    if plan.spec.reset:
        raise Usage("--from-sb3 gives networks to begin with, but reset = true makes new ones at every task")
    return read_sb3_networks(path, plan, trusted=trusted)


def _resume(path: Path, device: Device, *others: object) -> None:
    from ..folder import RunFolder

    if any(other is not None and other != [] for other in others):
        raise Usage(
            "--resume goes on with a run as it was started; leave out the preset, --arm, --set and --seed(s)"
        )
    status = RunFolder.open(path).read_manifest()["status"]
    if status == "complete":
        raise Usage(f"{str(path)!r} is complete; there is nothing to go on with")
    _carry_out([path], device, resume=True)


def _carry_out(runs: list[Path], device: Device, *, jobs: int | None = None, resume: bool = False) -> None:
    """Train, show the progress, say how it ended, and exit with a code that says so."""
    from ..execute import available_cores, execute, execute_side_by_side
    from ..progress import reporter

    for run in runs:
        out.print(f"results in {run}", soft_wrap=True)

    with reporter(out) as report, until_ctrl_c() as interrupted:
        if len(runs) == 1:
            outcomes = [execute(runs[0], device, report, interrupted, resume=resume)]
        else:
            workers = min(jobs or available_cores(), len(runs))
            outcomes = execute_side_by_side(runs, device, report, interrupted, workers)
    _conclude(outcomes)


def _conclude(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        match outcome.status:
            case "failed":
                err.print(f"error: {outcome.path.name}: {outcome.message}", soft_wrap=True, markup=False)
            case "interrupted":
                program = " ".join([*_variables(), _program("train-agent")])
                go_on = f"it goes on {outcome.message} with: {program} --resume {outcome.path}"
                err.print(f"stopped; {go_on}", soft_wrap=True)
            case "not started":
                err.print(f"not started: {outcome.path}", soft_wrap=True)
    complete = [outcome for outcome in outcomes if outcome.status == "complete"]
    if complete:
        for outcome in complete:
            _print_returns(outcome.path)
        board = complete[0].path if len(outcomes) == 1 else complete[0].path.parent
        out.print(f"\nwatch it:  {_program('tensorboard')} --logdir {board}", soft_wrap=True)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(FAILED)
    if len(complete) < len(outcomes):
        raise typer.Exit(INTERRUPTED)


def _variables() -> list[str]:
    """The variables that name files of the user's own, as a shell sets them for the command after them."""
    names = ("PLIANT_DATA", "PLIANT_MITIGATIONS", "PLIANT_ENV_MODULES")
    return [f"{name}={shlex.quote(os.environ[name])}" for name in names if os.environ.get(name)]


def _program(name: str) -> str:
    """How to call ``name`` from here: with its path where the shell would not find it, as after ``make``."""
    beside = Path(sys.executable).parent / name
    if shutil.which(name) or not beside.exists():
        return name
    return os.path.relpath(beside)


def _print_presets() -> None:
    from ..presets import load_spec, preset_names, shipped_arms

    table = plain_table("preset", "agent", "environment steps", "what it is")
    table.columns[0].no_wrap = True
    for name in preset_names():
        spec = load_spec(name)
        table.add_row(name, spec.agent.algorithm.upper(), f"{spec.total_steps:,}", spec.description)
    out.print(table)
    out.print(f"\narms of every preset, for --arm: {', '.join(shipped_arms())} (docs/mitigations.md)")


def _print_plan(plan: Plan) -> None:
    from rich.text import Text

    from ..evaluation.scheduled import expected_cost
    from ..presets import dump
    from ..resources import expected_needs

    out.print(dump(plan.spec), markup=False, soft_wrap=True)
    table = plain_table("task", "environment", "what it is", "env steps", "from")
    for index, task in enumerate(plan.sequence):
        # The name holds what is not the same for all: arguments of the environment and shifts.
        what = task.name.removeprefix(task.env).removeprefix(", ") or "-"
        steps, begins = f"{plan.task_steps[index]:,}", f"{plan.boundaries[index]:,}"
        table.add_row(str(index), task.env, Text(what), steps, begins)
    out.print(table)
    out.print(f"\n{len(plan.sequence)} tasks, {plan.boundaries[-1]:,} environment steps; nothing was run")
    out.print(str(expected_cost(plan)), soft_wrap=True)
    out.print(str(expected_needs(plan)), soft_wrap=True)
    _print_notes(plan)


def _print_notes(plan: Plan) -> None:
    from ..notes import notes

    for note in notes(plan):
        err.print(f"note: {note}", markup=False, soft_wrap=True)


def _print_returns(path: Path) -> None:
    from ..folder import RunFolder
    from ..summary import snapshot_cost, task_returns
    from ..words import number

    folder = RunFolder.open(path)
    rows = task_returns(folder)
    columns = {
        "task": [str(row.task) for row in rows],
        "episodes": [str(row.episodes) for row in rows],
        "return, first tenth": [number(row.first_tenth) for row in rows],
        "return, last tenth": [number(row.last_tenth) for row in rows],
    }
    if all(row.first_tenth is None for row in rows):  # episodes longer than that: passes over a data set
        del columns["return, first tenth"]
    table = plain_table(*columns, title=path.name)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    out.print()
    out.print(
        table if rows else f"{path.name}: no episode ended, so there is no return to show", soft_wrap=True
    )
    count, seconds = snapshot_cost(folder)
    if count:
        out.print(f"{count} snapshot{'s' * (count != 1)} took {seconds:.1f} s")
