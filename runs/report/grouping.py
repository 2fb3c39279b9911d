"""Which runs stand side by side: each experiment once, all of the same tasks, those of an arm together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ..errors import Incomparable
from .records import RunRecord

_NOT_TRAINING = {"description", "name", "threads", "diagnostics", "evaluation"}
"""What a run's returns do not depend on."""


@dataclass(frozen=True)
class Arm:
    """Runs that differ by their seed alone."""

    label: str
    runs: tuple[RunRecord, ...]

    @property
    def fresh(self) -> bool:
        """Whether each task began with a fresh agent."""
        return self.runs[0].reset


def newest(runs: Sequence[RunRecord], notes: list[str]) -> list[RunRecord]:
    """Each run once: of two of the same training the one that went further, has more snapshots, is later."""
    best: dict[Any, RunRecord] = {}
    for run in runs:
        key = repr(sorted(_training(run).items())) if run.spec else run.id
        other = best.get(key)
        if other is None or other.folder.path.resolve() == run.folder.path.resolve():
            best[key] = run
            continue
        keep, drop = sorted(
            (run, other),
            key=lambda r: (r.env_steps, len(r.moments), str(r.manifest.get("created"))),
            reverse=True,
        )
        best[key] = keep
        notes.append(f"{drop.id} is the same experiment as {keep.id} and is left out")
    return list(best.values())


def check_tasks(runs: Sequence[RunRecord]) -> None:
    """See that the runs have the same tasks.

    Raises:
        Incomparable: they have not; the text says what differs, and how to name those of each kind.
    """
    groups: list[list[RunRecord]] = []
    for run in runs:
        alike = (group for group in groups if not _what_differs(group[0], run))
        if (group := next(alike, None)) is not None:
            group.append(run)
        else:
            groups.append([run])
    if len(groups) > 1:
        first, other = groups[0][0], groups[1][0]
        raise Incomparable(
            f"{first.id} and {other.id} cannot be compared, their tasks differ: "
            f"{_what_differs(first, other)}; give them reports of their own:"
            + "".join(f"\n  {_as_arguments(group, runs)}" for group in groups)
        )


def _what_differs(first: RunRecord, run: RunRecord) -> str:
    """Between the tasks of two runs, in words; empty if nothing does."""
    if run.spec and first.spec and run.spec.tasks != first.spec.tasks:
        ours, theirs = (dict(_flatten(spec.tasks.model_dump(mode="json"))) for spec in (first.spec, run.spec))
        keys = [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
        return "; ".join(f"tasks.{key} is {ours.get(key)!r} against {theirs.get(key)!r}" for key in keys[:3])
    if run.task_count != first.task_count:
        return f"{first.task_count} tasks against {run.task_count}"
    for kind in ("data", "environments"):
        ours, theirs = _inputs(first, kind), _inputs(run, kind)
        for name in ours:
            if theirs.get(name, ours[name]) != ours[name]:  # not if one has noted none
                return f"{kind}: {name} is {ours[name]} against {theirs[name]}"
    return ""


def _as_arguments(group: Sequence[RunRecord], runs: Sequence[RunRecord]) -> str:
    """How to name the runs of ``group``, and no other of ``runs``, on the command line."""
    path = group[0].folder.path
    pattern = f"{path.parent / str(group[0].manifest.get('preset'))}-*"
    matching = [run for run in runs if fnmatchcase(str(run.folder.path), pattern)]
    count = f"{len(group)} run{'s' * (len(group) != 1)}"
    return f"{pattern} ({count})" if matching == group else f"{path} ({count} of this kind)"


def arms_of(runs: Sequence[RunRecord]) -> tuple[Arm, ...]:
    """Runs whose specs differ by the seed alone make an arm; equal names are told apart by what differs."""
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        key = repr(sorted(_training(run, "seed").items())) if run.spec else f"{run.arm} (spec unreadable)"
        groups.setdefault(key, []).append(run)
    members = sorted(groups.values(), key=lambda group: group[0].reset)
    arms = []
    for group in members:
        same_name = [other for other in members if other[0].arm == group[0].arm]
        label = group[0].arm
        if len(same_name) > 1:
            tables = [_training(other[0], "seed") for other in same_name]
            mine = _training(group[0], "seed")
            keys = sorted(
                key
                for key in {key for table in tables for key in table}
                if len({repr(table.get(key)) for table in tables}) > 1
            )
            told = [
                f"{key.removeprefix('agent.').removeprefix('mitigations.')}={mine.get(key)}" for key in keys
            ]
            label += f" ({', '.join(told[:3]) or group[0].id})"
        arms.append(Arm(label, tuple(sorted(group, key=lambda run: run.seed))))
    return tuple(arms)


def differences(arms: Sequence[Arm]) -> list[tuple[str, list[Any]]]:
    """Keys of the spec in which arms differ, with the value of each arm (None where it has none)."""
    tables = [_flat_spec(arm.runs[0], {"seed"}) | _inputs(arm.runs[0], "mitigations") for arm in arms]
    keys = sorted({key for table in tables for key in table})
    rows = [(key, [table.get(key) for table in tables]) for key in keys]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values[1:])]


def _training(run: RunRecord, *leave_out: str) -> dict[str, Any]:
    """What a run's returns follow from, flat."""
    return _flat_spec(run, {*_NOT_TRAINING, *leave_out}) | _inputs(run, "mitigations")


def _inputs(run: RunRecord, kind: str) -> dict[str, str]:
    """The checksums of the ``data``, or of the user's own ``mitigations``, as far as the run noted them."""
    noted: dict[str, str] = run.manifest.get("inputs", {}).get(kind, {})
    return noted


def _flat_spec(run: RunRecord, leave_out: set[str]) -> dict[str, Any]:
    if run.spec is None:
        return {}
    return dict(_flatten(run.spec.model_dump(mode="json", exclude_none=True, exclude=leave_out)))


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from _flatten(below, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
        for index, below in enumerate(value):
            yield from _flatten(below, f"{prefix}.{index}")
    elif prefix and value != {}:
        yield prefix, value
