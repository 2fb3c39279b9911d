"""Snapshots during training, as a callback; the only module that knows stable-baselines3."""

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure, TensorBoardOutputFormat
from torch import Tensor

from .errors import UnknownOption
from .measure import take_snapshot
from .protocol import Batch, Measurable
from .settings import SnapshotSettings
from .snapshot import Snapshot

MOMENTS = ("init", "end")


class SnapshotCallback(BaseCallback):
    """Measures the agent where a ``learn()`` begins (``init``), where it ends (``end``), in between if asked.

    With one ``learn()`` per task these are the switches: ``init`` sees the parameters as the last task left
    them, on data of the task to come. Training is the same with it as without: nothing of the agent is
    touched. A snapshot that fails becomes a warning and a record in ``failures``; it never ends the run.

    Numbers of ``init`` and of snapshots in between are logged under their tags, those of ``end`` under
    ``end/...``: the end of a task and the beginning of the next are the same environment step.

    Args:
        batch_source: gathers a fresh batch of the task, in environments of its own.
        folder: where the snapshots are saved, as ``task-003-init.npz``.
        moments: which of ``init`` and ``end`` to take.
        task: number of the task in its sequence.
        settings: what to measure.
        every: take another snapshot after this many gradient updates; 0 for none. PPO counts an epoch as one
            update, as stable-baselines3 does.
        figures: draw spectra into TensorBoard where the agent logs to it.
        on_snapshot: called with every snapshot taken.
        verbose: 1 prints the cost of each snapshot.
    """

    def __init__(
        self,
        batch_source: Callable[[], Batch],
        folder: str | Path,
        moments: Iterable[str] = MOMENTS,
        task: int = 0,
        settings: SnapshotSettings | None = None,
        every: int = 0,
        figures: bool = True,
        on_snapshot: Callable[[Snapshot], None] | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        self.batch_source = batch_source
        self.folder = Path(folder)
        self.moments = tuple(moments)
        for moment in self.moments:
            if moment not in MOMENTS:
                raise UnknownOption("moments", moment, MOMENTS)
        self.task = task
        self.settings = settings or SnapshotSettings()
        self.every = every
        self.figures = figures
        self.on_snapshot = on_snapshot
        self._reference: dict[str, dict[str, Tensor]] = {}
        self._updates = 0

    def _on_training_start(self) -> None:
        self._updates = self._count()
        if "init" in self.moments:
            self._take("init")
        # From here on weight changes are those since the switch.
        networks = cast(Measurable, self.model).networks()
        self._reference = {n: {k: p.detach().clone() for k, p in ps.items()} for n, ps in networks.items()}

    def _on_rollout_start(self) -> None:
        if self.every and self._count() - self._updates >= self.every:
            self._updates = self._count()
            self._take(f"update-{self._updates:07d}")

    def _on_training_end(self) -> None:
        if "end" in self.moments:
            self._take("end")

    def _on_step(self) -> bool:
        return True

    def _count(self) -> int:
        return int(getattr(self.model, "_n_updates", 0))

    def _take(self, moment: str) -> None:
        """Take, save and log one snapshot; whatever goes wrong is a warning."""
        try:
            snapshot = take_snapshot(
                cast(Measurable, self.model),
                self.batch_source(),
                self.settings,
                moment,
                self._reference or None,
            )
        except Exception as error:  # the run is worth more than one measurement of it
            snapshot = Snapshot(
                moment, self.settings, failures={"snapshot": f"{type(error).__name__}: {error}"}
            )
        snapshot.about.update(task=self.task, env_steps=self.num_timesteps, updates=self._count())
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            snapshot.save(self.folder / f"task-{self.task:03d}-{moment}.npz")
            self._log(snapshot)
            if self.on_snapshot is not None:
                self.on_snapshot(snapshot)
        except Exception as error:
            snapshot.failures["record"] = f"{type(error).__name__}: {error}"
        for instrument, reason in snapshot.failures.items():
            text = f"snapshot {moment!r} of task {self.task}: {instrument} failed, training goes on: {reason}"
            # A filter that turns warnings into errors must not end the run either.
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _log(self, snapshot: Snapshot) -> None:
        prefix = "end/" if snapshot.label == "end" else ""
        quiet = ("stdout", "log", "csv")
        for tag, value in snapshot.scalars().items():
            self.logger.record(prefix + tag, value, exclude=quiet)
        seconds = snapshot.seconds.get("total", 0.0)
        self.logger.record(f"{prefix}switch/snapshot_seconds", seconds)
        self.logger.record(f"{prefix}switch/failures", float(len(snapshot.failures)), exclude=quiet)
        if self.figures and any(isinstance(f, TensorBoardOutputFormat) for f in self.logger.output_formats):
            for name, figure in self._figures(snapshot).items():
                self.logger.record(prefix + name, Figure(figure, close=True), exclude=(*quiet, "json"))
        self.logger.dump(self.num_timesteps)
        if self.verbose >= 1:
            print(f"snapshot {snapshot.label!r} of task {self.task}: {seconds:.1f} s")

    def _figures(self, snapshot: Snapshot) -> dict[str, Any]:
        from .figures import covariance_figure, epsilon_rank_figure, feature_figure, spectrum_figure

        title = f"task {self.task}, {snapshot.label}"
        figures: dict[str, Any] = {}
        if snapshot.spectra:
            figures["spectrum/density"] = spectrum_figure(snapshot, title)
            figures["spectrum/epsilon_rank"] = epsilon_rank_figure(snapshot, title=title)
        if snapshot.features:
            figures["plasticity/layers"] = feature_figure(snapshot.features, title)
        suffix = "/gradient_covariance"
        covariances = {n.removesuffix(suffix): m for n, m in snapshot.arrays.items() if n.endswith(suffix)}
        if covariances:
            figures["plasticity/gradient_covariance"] = covariance_figure(covariances, title)
        return figures
