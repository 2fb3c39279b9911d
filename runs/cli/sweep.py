"""``pliant sweep``: many runs from one file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import FAILED, INTERRUPTED, Data, Device, Usage, err, out, plain_table, until_ctrl_c

if TYPE_CHECKING:
    from ..plan import Plan
    from ..progress import Reporter
    from ..sweep.drive import Result, Shard
    from ..sweep.engine import Engine
    from ..sweep.protocol import Sweep


def sweep(
    file: Annotated[
        Path | None, typer.Argument(help="A TOML file: base, arms, space, seeds.", show_default=False)
    ] = None,
    results: Annotated[Path, typer.Option("--out", help="Where the sweep's folder is made.")] = Path(
        "results"
    ),
    resume: Annotated[Path | None, typer.Option(metavar="SWEEP", help="Go on with a sweep's folder.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; all cores by default.")] = None,
    device: Annotated[Device, typer.Option(help="As for pliant train.")] = "auto",
    retries: Annotated[
        int, typer.Option(min=0, help="How often a run whose process died is gone on with.")
    ] = 3,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Do the I-th of N parts, I from 0: one job of an array.")
    ] = None,
    optuna: Annotated[bool, typer.Option("--optuna", help="Let Optuna choose the settings to try.")] = False,
    storage: Annotated[
        str | None,
        typer.Option("--optuna-storage", metavar="URL", help="A database, or the path of a journal file."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Run on a Ray cluster: auto, host:port, or local for a new one."
        ),
    ] = None,
    cpus: Annotated[float, typer.Option(min=0.0, help="Ray: cores set aside for a run.")] = 1.0,
    gpus: Annotated[
        float, typer.Option(min=0.0, help="Ray: GPUs for a run; 0.25 lets four share one.")
    ] = 0.0,
    sync_to: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Ray: keep runs at a URL on the way (s3://...) if nodes share no disk."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="List the runs and what they will take, and stop.")] = False,
    data: Data = None,
) -> None:
    """Carry out many runs from one file: arms, settings, seeds; or tune every arm and test the best setting.

    Nothing is run twice: the same command goes on with what is missing.
    """
    from ..sweep.definition import load_definition
    from ..sweep.folder import SweepFolder
    from ..sweep.protocol import Sweep

    part = _parse_shard(shard)
    if (file is None) == (resume is None):
        raise Usage(
            "name a sweep's file, `pliant sweep sweep.toml`, or a sweep's folder, `--resume results/x`"
        )
    if resume is not None:
        folder = SweepFolder.open(resume)
        if optuna:
            raise Usage("--resume goes on with a sweep as it was begun; leave out --optuna")
        definition = folder.read_definition()
    else:
        assert file is not None
        definition = load_definition(file, optuna=optuna)
        folder = SweepFolder(results / definition.name)
    if storage is not None and not (definition.tune and definition.tune.method == "optuna"):
        raise Usage("--optuna-storage is for a search with --optuna")
    whole = Sweep(definition, folder, storage)
    if ray is None and (sync_to is not None or (cpus, gpus) != (1.0, 0.0)):
        raise Usage("--sync-to, --cpus and --gpus are for runs on a Ray cluster, with --ray")
    plans = whole.check(device)  # everything, before the first file is written
    if folder.is_one:
        folder.check(definition)
    if dry_run:
        _print_plan(whole, plans, jobs)
        return
    if ray is None:
        _check_room(whole, plans, part, jobs)

    def make_engine(report: Reporter) -> Engine:
        from ..execute import available_cores
        from ..sweep.engine import ProcessEngine

        if ray is None:
            return ProcessEngine(jobs or available_cores(), device, report, retries)
        from ..sweep.mirror import Mirror
        from ..sweep.on_ray import RayEngine

        mirror = Mirror(f"{sync_to.rstrip('/')}/{folder.path.name}") if sync_to else None
        if mirror is not None:
            mirror.check()
        return RayEngine(ray, device, report, retries, cpus=cpus, gpus=gpus, mirror=mirror)

    def take_folder() -> None:
        if resume is None:
            SweepFolder.take(results, definition)
        runs, steps = whole.expected()
        out.print(f"results in {folder.path}: {runs:,} runs, {steps:,} environment steps", soft_wrap=True)

    _carry_out(whole, part, make_engine, take_folder)


def _check_room(whole: Sweep, plans: Sequence[Plan], part: Shard, jobs: int | None) -> None:
    """Refuse what does not fit into memory or onto the disk; on a cluster they are the nodes'.

    Raises:
        TooLarge: says what takes the most, what there is and what to do.
    """
    from ..execute import available_cores
    from ..resources import check_disk, check_memory
    from ..sweep.expectation import usual_needs

    runs, steps = whole.left()
    if not runs:
        return
    needs = usual_needs(plans, steps // runs)
    runs = -(-runs // part.count)
    check_memory(needs, min(jobs or available_cores(), runs))
    if warning := check_disk(needs, whole.folder.path, runs):
        err.print(f"warning: {warning}", markup=False, soft_wrap=True)


def _carry_out(
    whole: Sweep, part: Shard, make_engine: Callable[[Reporter], Engine], take_folder: Callable[[], None]
) -> None:
    """Run, show the progress, write the tables, say how it ended, and exit with a code that says so."""
    from ..sweep.drive import drive_sweep
    from ..sweep.progress import Tally, watcher
    from ..sweep.tables import write_tables

    with (
        watcher(out, Tally(*whole.expected(), whole.known_jobs())) as watch,
        until_ctrl_c() as interrupted,
        make_engine(watch) as engine,
    ):
        take_folder()  # once it is known that there is something to run on
        result = drive_sweep(whole, engine, watch, interrupted, part)
    write_tables(whole)
    _conclude(whole, result)


def _conclude(whole: Sweep, result: Result) -> None:
    for path, message in result.failed.items():
        err.print(f"error: {path.name}: {message}", soft_wrap=True, markup=False)
    for path, message in result.diverged.items():
        err.print(f"diverged: {path.name}: {message}", soft_wrap=True, markup=False)
    for problem in result.problems:
        err.print(f"error: {problem}", soft_wrap=True, markup=False)
    if whole.definition.tune is not None:
        _print_choices(whole)
    again = f"pliant sweep --resume {whole.folder.path}"
    if result.interrupted:
        err.print(f"stopped; go on with: {again}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED)
    if result.failed:
        err.print(f"{len(result.failed)} runs failed; they are tried again by: {again}", soft_wrap=True)
    if result.failed or result.problems:
        raise typer.Exit(FAILED)
    if not result.whole:
        err.print(
            f"this shard has done its part; {result.unfinished} runs are other shards'. What depends on them "
            f"(tests, after the tuning) is done when all shards are run once more: {again}",
            soft_wrap=True,
        )
    out.print(
        f"\ntables in {whole.folder.runs_file.parent}; compare the runs:  pliant compare {whole.folder.path}"
    )


def _print_choices(whole: Sweep) -> None:
    from rich.text import Text

    table = plain_table("arm", "chosen setting", "score", "of")
    for arm in whole.definition.arms:
        choice = whole.folder.read_choice(arm)
        if choice is None:
            table.add_row(arm, "not chosen yet", "", "")
            continue
        setting = ", ".join(f"{key} = {value}" for key, value in choice["setting"].items()) or "the arm's own"
        table.add_row(Text(arm), Text(setting), f"{choice['score']:.4g}", _of(choice))
    out.print(table)


def _of(choice: Mapping[str, Any]) -> str:
    """What was chosen from; a choice among equals is one by order alone."""
    equals = choice.get("equals", 0)
    tie = f", the first of {equals + 1} with this score" if equals else ""
    return f"{choice['trials']} settings{tie}"


def _print_plan(whole: Sweep, plans: Sequence[Plan], jobs: int | None) -> None:
    from rich.text import Text

    from ..execute import available_cores
    from ..sizes import in_words
    from ..sweep.expectation import expectation, usual_needs

    table = plain_table("run", "seed", "env steps", "state")
    known = whole.known_jobs()
    for job in known:
        name = job.path.relative_to(whole.folder.path)
        table.add_row(Text(str(name)), str(job.spec.seed), f"{job.total_steps:,}", job.state())
    out.print(table)
    runs, steps = whole.expected()
    if len(known) < runs:
        out.print(f"and {runs - len(known):,} runs whose settings are chosen on the way")
    runs_left, steps_left = whole.left()
    out.print(
        f"\n{runs:,} runs, {steps:,} environment steps in {whole.folder.path}; {runs - runs_left:,} runs are "
        "there already; nothing was run",
        soft_wrap=True,
    )
    found = expectation(known)
    out.print(
        f"disk: about {in_words(sum(usual_needs(plans, steps_left).disk.values()))}; the time is not known "
        "before a run of this sweep is complete"
        if found is None
        else f"the rest: {found.text(steps_left, jobs or available_cores())}",
        soft_wrap=True,
    )


def _parse_shard(text: str | None) -> Shard:
    from ..sweep.drive import Shard

    if text is None:
        return Shard()
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise Usage(f"--shard {text!r}: expected I/N with I from 0 to N - 1, for example 0/8")
    return Shard(int(match[1]), int(match[2]))
