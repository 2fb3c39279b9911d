"""``pliant replay``: play recorded episodes again, check them bit for bit, film them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .console import FAILED, Data, Usage, err, out

if TYPE_CHECKING:
    from ..evaluation.recording import Episode, Replays


def replay(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    after_task: Annotated[
        int | None, typer.Option(min=-1, help="The checkpoint after this task; -1: untrained. Default: all.")
    ] = None,
    on_task: Annotated[int | None, typer.Option(min=0, help="The task played. Default: all.")] = None,
    episode: Annotated[int | None, typer.Option(min=0, help="Its number. Default: all.")] = None,
    policy: Annotated[
        Literal["deterministic", "stochastic"] | None, typer.Option(help="Default: both.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="Write a new film, .gif or .mp4.", dir_okay=False)
    ] = None,
    beside: Annotated[
        str | None,
        typer.Option("--side-by-side", metavar="TASKS", help="With --video: after several tasks, as 1,3,5."),
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Watch it in a window.")] = False,
    data: Data = None,
) -> None:
    """Play recorded evaluation episodes again: rewards and observations must come out exactly the same."""
    from ..folder import RunFolder

    afters = _parse_tasks(beside) if beside is not None else [after_task]
    if beside is not None and (video is None or after_task is not None):
        raise Usage("--side-by-side takes the place of --after-task, and needs --video")
    if video is not None and live:
        raise Usage("give --video or --live, not both")
    folder = RunFolder.open(run)

    from ..evaluation.replay import find_replays

    damaged: list[str] | None = [] if video is None and not live else None  # a check goes on to the others
    found = [
        one for after in afters for one in find_replays(folder, after, on_task, episode, policy, damaged)
    ]
    if video is not None:
        _film(_one_each(folder.path, found, afters), video)
    elif live:
        _watch(*_one_each(folder.path, found, afters)[0])
    else:
        _check(found, damaged or [])


def _check(found: list[tuple[Replays, Episode]], damaged: list[str]) -> None:
    from ..evaluation.replay import difference

    failed = 0
    for replays, one in found:
        reason = difference(replays, one)
        name = _name(replays, one)
        if reason:
            failed += 1
            err.print(f"{name}: differs: {reason}", markup=False, soft_wrap=True)
        else:
            out.print(f"{name}: exact, {one.length} steps, return {one.total:.6g}", soft_wrap=True)
    if failed:
        err.print(f"{failed} of {len(found)} episodes differ from their records")
    for reason in damaged:
        err.print(reason, markup=False, soft_wrap=True)
    if damaged:
        err.print(f"{len(damaged)} file{'s' * (len(damaged) > 1)} of records could not be read")
    if failed or damaged:
        raise typer.Exit(FAILED)


def _film(found: list[tuple[Replays, Episode]], path: Path) -> None:
    from ..evaluation.replay import ReplayDiffers, explained
    from ..evaluation.video import check_video_file, film, frames_per_second, side_by_side, write_video

    check_video_file(path)
    films = [film(replays.task, one, _title(replays)) for replays, one in found]
    try:
        count = write_video(path, side_by_side(films), frames_per_second(found[0][0].task))
    except ReplayDiffers as error:
        raise ReplayDiffers(f"nothing was written: {explained(error, found[0][0])}") from None
    out.print(f"exact; {count} frames in {path}", soft_wrap=True)


def _watch(replays: Replays, one: Episode) -> None:
    from ..evaluation.replay import replayed

    for _ in replayed(replays.task, one, "human"):
        pass
    out.print(f"{_name(replays, one)}: exact, {one.length} steps, return {one.total:.6g}", soft_wrap=True)


def _one_each(
    run: Path, found: list[tuple[Replays, Episode]], afters: list[int | None]
) -> list[tuple[Replays, Episode]]:
    """One episode per checkpoint, or a message that says what is left open."""
    if len(found) > len(afters):
        example = _name(*found[0])
        raise Usage(
            f"{len(found)} recorded episodes of {run} fit; name one with --after-task, --on-task, --episode "
            f"and --policy. The first is: {example}"
        )
    return found


def _name(replays: Replays, one: Episode) -> str:
    return f"after task {replays.after_task} on task {one.on_task}, episode {one.episode}, {one.policy}"


def _title(replays: Replays) -> str:
    after = f"after task {replays.after_task}" if replays.after_task >= 0 else "untrained"
    return f"{after}, on task {replays.on_task}: {replays.task.name}"


def _parse_tasks(text: str) -> list[int | None]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise Usage(f"--side-by-side {text!r}: expected tasks such as 1,3,5") from None
