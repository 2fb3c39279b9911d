"""What the rest of a sweep will take: by its specs, and by those of its runs that are complete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..manifest import wall_seconds
from ..plan import Plan
from ..resources import Needs, expected_needs
from .jobs import Job


def usual_needs(plans: Sequence[Plan], env_steps: int) -> Needs:
    """Of a run of ``env_steps`` like those of ``plans``: the largest one's memory, the average one's disk."""
    needs = [expected_needs(plan) for plan in plans]
    share = env_steps / sum(plan.boundaries[-1] for plan in plans)
    return Needs(
        memory=max((one.memory for one in needs), key=lambda memory: sum(memory.values())),
        disk=_sum((one.disk for one in needs), share),
        more_disk=_sum((one.more_disk for one in needs), share),
    )


def _sum(sizes: Iterable[Mapping[str, int]], factor: float) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in sizes:
        total.update(one)
    return {name: int(factor * size) for name, size in total.items()}


@dataclass(frozen=True)
class Expectation:
    """Time and size of a run per environment step; the time between an interruption and its end counts."""

    seconds_per_step: float
    """Of one run, per environment step, everything included."""
    bytes_per_step: float
    runs: int
    """That it goes by."""

    def text(self, env_steps: int, at_a_time: int) -> str:
        """About ``env_steps`` environment steps, by ``at_a_time`` runs side by side."""
        hours = env_steps * self.seconds_per_step / 3600
        size = env_steps * self.bytes_per_step / 1e6
        return (
            f"{hours:.1f} hours of a process, {hours / at_a_time:.1f} hours with {at_a_time} at a time, "
            f"and {size:,.0f} MB, going by {self.runs} complete run{'s' * (self.runs != 1)} of this sweep"
        )


def expectation(jobs: Sequence[Job]) -> Expectation | None:
    """From the complete runs among ``jobs``; None if there are none."""
    steps, seconds, size, runs = 0, 0.0, 0, 0
    for job in jobs:
        folder = job.folder()
        about = folder.read_manifest() if folder else {}
        took = wall_seconds(about)
        if about.get("status") != "complete" or took is None:
            continue
        steps, runs, seconds = steps + job.total_steps, runs + 1, seconds + took
        size += disk_usage(job.path)
    return Expectation(seconds / steps, size / steps, runs) if runs else None


def disk_usage(folder: Path) -> int:
    """Bytes of all files under ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
