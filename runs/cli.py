"""The command line: ``pliant`` and its verbs, and ``train-agent``, which is ``pliant train``.

The only module that prints or exits. Nothing that needs torch is imported before there is work for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

if TYPE_CHECKING:
    from ..diagnostics import Snapshot
    from .execute import Outcome
    from .plan import Plan

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

BAD_INPUT = 2
"""Exit code of everything that the person at the keyboard can mend."""
FAILED = 1
INTERRUPTED = 130

Device = Literal["auto", "cpu", "cuda"]


def train(
    preset: Annotated[
        str | None,
        typer.Argument(help="A shipped preset (see --list) or the path of a TOML file.", show_default=False),
    ] = None,
    arm: Annotated[
        str | None, typer.Option(help="Named set of mitigations: bp, l2, er, l2-er, reset, ...")
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
    list_presets: Annotated[bool, typer.Option("--list", help="List the presets and stop.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Print the resolved spec and the tasks, and stop.")] = False,
) -> None:
    """Train an agent through a sequence of shifting environments."""
    if list_presets:
        _print_presets()
    elif resume is not None:
        _resume(resume, device, preset, arm, settings, seed, seeds)
    elif preset is None:
        raise _Usage(
            "name a preset, for example `train-agent quickstart`; `train-agent --list` shows them all"
        )
    elif seed is not None and seeds is not None:
        raise _Usage("give --seed or --seeds, not both")
    else:
        _start(
            preset,
            arm,
            settings or [],
            [seed] if seeds is None else _parse_seeds(seeds),
            jobs,
            device,
            folder,
            dry_run,
        )


class _Usage(ValueError):
    """Arguments that do not go together."""


def _start(
    preset: str,
    arm: str | None,
    settings: Sequence[str],
    seeds: Sequence[int | None],
    jobs: int | None,
    device: Device,
    folder: Path,
    dry_run: bool,
) -> None:
    from .presets import load_spec

    specs = [load_spec(preset, arm=arm, settings=settings, seed=seed) for seed in seeds]

    # Everything is checked before the first file is written. (torch is imported from here on.)
    from .plan import make_plan

    plans = [make_plan(spec, device) for spec in specs]
    if dry_run:
        _print_plan(plans[0])
        return
    from .folder import RunFolder

    runs = [RunFolder.create(folder, plan.spec, plan.boundaries).path for plan in plans]
    _carry_out(runs, device, jobs=jobs)


def _resume(path: Path, device: Device, *others: object) -> None:
    from .folder import RunFolder

    if any(other is not None and other != [] for other in others):
        raise _Usage(
            "--resume goes on with a run as it was started; leave out the preset, --arm, --set and --seed(s)"
        )
    status = RunFolder.open(path).read_manifest()["status"]
    if status == "complete":
        raise _Usage(f"{str(path)!r} is complete; there is nothing to go on with")
    _carry_out([path], device, resume=True)


def _carry_out(runs: list[Path], device: Device, *, jobs: int | None = None, resume: bool = False) -> None:
    """Train, show the progress, say how it ended, and exit with a code that says so."""
    from .execute import available_cores, execute, execute_side_by_side
    from .interrupt import Interrupt
    from .progress import reporter

    for run in runs:
        out.print(f"results in {run}", soft_wrap=True)

    def tell() -> None:
        err.print("stopping at the next rollout (Ctrl-C again stops at once)")

    with reporter(out) as report, Interrupt(tell) as interrupted:
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
                err.print(
                    f"stopped and saved; go on with: train-agent --resume {outcome.path}", soft_wrap=True
                )
            case "not started":
                err.print(f"not started: {outcome.path}", soft_wrap=True)
    complete = [outcome for outcome in outcomes if outcome.status == "complete"]
    if complete:
        for outcome in complete:
            _print_returns(outcome.path)
        board = complete[0].path if len(outcomes) == 1 else complete[0].path.parent
        out.print(f"\nwatch it:  tensorboard --logdir {board}", soft_wrap=True)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(FAILED)
    if len(complete) < len(outcomes):
        raise typer.Exit(INTERRUPTED)


def _print_presets() -> None:
    from rich.table import Table

    from .presets import load_spec, preset_names

    table = Table("preset", "agent", "environment steps", "what it is", box=None, pad_edge=False)
    for name in preset_names():
        spec = load_spec(name)
        table.add_row(name, spec.agent.algorithm.upper(), f"{spec.total_steps:,}", spec.description)
    out.print(table)


def _print_plan(plan: Plan) -> None:
    from rich.table import Table

    from .presets import dump

    out.print(dump(plan.spec), markup=False, soft_wrap=True)
    table = Table("task", "environment", "shifts", "env steps", "from", box=None, pad_edge=False)
    for index, task in enumerate(plan.sequence):
        shifts = "; ".join(str(shift) for shift in task.shifts) or "-"
        table.add_row(
            str(index), task.env, shifts, f"{plan.task_steps[index]:,}", f"{plan.boundaries[index]:,}"
        )
    out.print(table)
    out.print(f"\n{len(plan.sequence)} tasks, {plan.boundaries[-1]:,} environment steps; nothing was run")


def _print_returns(path: Path) -> None:
    from rich.table import Table

    from .folder import RunFolder
    from .summary import task_returns

    table = Table(
        "task", "episodes", "return, first tenth", "last tenth", box=None, pad_edge=False, title=path.name
    )
    table.title_justify = "left"
    for row in task_returns(RunFolder.open(path)):
        table.add_row(str(row.task), str(row.episodes), _number(row.first_tenth), _number(row.last_tenth))
    out.print()
    out.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _parse_seeds(text: str) -> list[int]:
    """``0-4`` or ``0,3,7`` or both mixed, in order and without repetition."""
    seeds: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise _Usage(f"--seeds {text!r}: expected numbers and ranges such as 0-4 or 0,3,7")
        seeds.update(dict.fromkeys(range(int(first), int(last or first) + 1)))
    return list(seeds)


def measure(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    after_task: Annotated[
        int | None,
        typer.Option(min=-1, help="The checkpoint after this task; -1: untrained. Default: the last."),
    ] = None,
    on_task: Annotated[
        int | None, typer.Option(min=0, help="Data of this task. Default: the one that followed.")
    ] = None,
    probes: Annotated[int | None, typer.Option(min=1, help="Random vectors per spectrum.")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="Lanczos steps.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="diagnostics.spectrum.operators='[\"ggn\"]'"),
    ] = None,
    device: Annotated[Device, typer.Option()] = "auto",
) -> None:
    """Measure a saved run again: a checkpoint's spectra and features on data of any of its tasks."""
    from .folder import RunFolder

    folder = RunFolder.open(run)
    changes = list(settings or [])
    changes += [f"diagnostics.spectrum.{k}={v}" for k, v in {"probes": probes, "depth": depth}.items() if v]

    from .measure import measure as measure_run

    snapshot, path = measure_run(
        folder, after_task=after_task, on_task=on_task, settings=tuple(changes), device=device
    )
    _print_snapshot(snapshot)
    out.print(f"\nsaved in {path}", soft_wrap=True)


def _print_snapshot(snapshot: Snapshot) -> None:
    from rich.table import Table

    numbers = snapshot.scalars()
    table = Table("quantity", "value", "bracket", box=None, pad_edge=False, title=snapshot.label)
    table.title_justify = "left"
    for tag, value in numbers.items():
        if not tag.endswith(("_low", "_high")):
            low, high = numbers.get(f"{tag}_low"), numbers.get(f"{tag}_high")
            table.add_row(
                tag, f"{value:.4g}", "" if low is None or high is None else f"[{low:.4g}, {high:.4g}]"
            )
    out.print(table)
    for instrument, reason in snapshot.failures.items():
        err.print(f"{instrument} failed: {reason}", markup=False, soft_wrap=True)


app = typer.Typer(name="pliant", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _pliant() -> None:
    """Continual reinforcement-learning agents that keep their ability to learn."""


app.command(name="train")(train)
app.command(name="measure")(measure)

_train_app = typer.Typer(name="train-agent", add_completion=False, pretty_exceptions_enable=False)
_train_app.command()(train)


def main() -> None:
    """Entry point of ``pliant``."""
    _guarded(app)


def train_agent() -> None:
    """Entry point of ``train-agent``."""
    _guarded(_train_app)


def _guarded(command: Callable[[], None]) -> None:
    """Run ``command``; what a person can mend becomes one message and exit code 2."""
    # Before numpy is loaded: its linear algebra starts a thread per core, and where cores are shared the
    # small eigenproblems of a snapshot then took 40 times as long (17 s instead of 0.35 s).
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        command()
    except KeyboardInterrupt:
        err.print("stopped at once; the last checkpoint is kept")
        sys.exit(INTERRUPTED)
    except Exception as error:
        if not _meant_for_a_person(error):
            raise
        err.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(BAD_INPUT)


def _meant_for_a_person(error: Exception) -> bool:
    from .errors import RunError

    if isinstance(error, (_Usage, RunError)):
        return True
    from ..agents import AgentError
    from ..diagnostics import MeasurementError
    from ..envs import EnvError

    return isinstance(error, (AgentError, EnvError, MeasurementError))
