"""Snapshots during training, as a callback; the only module that knows stable-baselines3."""

import errno
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure, TensorBoardOutputFormat
from torch import Tensor

from .comparison import data_changes
from .errors import UnknownOption
from .features import distance
from .measure import take_snapshot
from .protocol import Batch, Measurable
from .settings import SnapshotSettings
from .snapshot import Snapshot

MOMENTS = ("init", "end")


#: Environment steps between two looks at what ``train()`` changes: copies for each of DQN's would be felt.
LOOK_EVERY = 1_000

Networks = Mapping[str, Mapping[str, Tensor]]
Copies = dict[str, dict[str, Tensor]]


def _copied(networks: Networks) -> Copies:
    return {n: {k: p.detach().clone() for k, p in ps.items()} for n, ps in networks.items()}


class _UpdateNorms:
    """Lengths of parameter changes over calls of ``train()``, summed between snapshots.

    Such calls lie between rollouts (PPO, DQN) or within them (the classifier), so both ends are looked at.
    """

    def __init__(self) -> None:
        self._before: tuple[Copies, int] | None = None
        self._next = 0
        self._lengths: dict[str, float] = {}
        self._updates = 0

    def before(self, networks: Callable[[], Networks], updates: int, env_steps: int) -> None:
        """``train()`` may follow: keep a copy, unless there is one or the last look was not long ago."""
        if self._before is None and env_steps >= self._next:
            self._before = _copied(networks()), updates

    def after(self, networks: Callable[[], Networks], updates: int, env_steps: int) -> None:
        """``train()`` has run, or not."""
        if self._before is None or updates == self._before[1]:
            return
        copies, since = self._before
        for name, parameters in networks().items():
            self._lengths[name] = self._lengths.get(name, 0.0) + distance(parameters, copies[name])
        self._updates += updates - since
        self._before, self._next = None, env_steps + LOOK_EVERY

    def finish(self) -> dict[str, float]:
        """The means by tag; the sums start anew."""
        lengths, updates = self._lengths, self._updates
        self._lengths, self._updates = {}, 0
        return {f"plasticity/{name}/update_norm": length / updates for name, length in lengths.items()}

    def state(self) -> dict[str, Any]:
        """The sums, between two calls of ``train()``."""
        return {"next": self._next, "lengths": self._lengths, "updates": self._updates}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put them back."""
        self._next, self._updates = int(state["next"]), int(state["updates"])
        self._lengths = {str(name): float(length) for name, length in state["lengths"].items()}


class SnapshotCallback(BaseCallback):
    """Measures the agent where a ``learn()`` begins (``init``), where it ends (``end``), in between if asked.

    With one ``learn()`` per task these are the switches: ``init`` sees the parameters as the last task left
    them, on data of the task to come. Training is the same with it as without: nothing of the agent is
    touched. A snapshot that fails becomes a warning and a record in ``failures``; only a full disk ends
    the run.

    Numbers of ``init`` and of snapshots in between are logged under their tags, those of ``end`` under
    ``end/...``: the end of a task and the beginning of the next are the same environment step. At ``init``,
    where the folder holds the ``end`` of the task before, the change that is due to the data alone is logged
    as ``switch/<part>/data_change_<rank>`` (:func:`.comparison.data_changes`).

    ``plasticity/<network>/update_norm`` is measured here as well, from the second snapshot of a ``learn()``
    on: the length of the net change of the network's parameters in one call of the agent's ``train()``, by
    the gradient updates in it. So it is the length of an update where ``train()`` takes one (DQN), and a
    lower bound of their mean length where it takes many (PPO: all epochs over a rollout; the classifier: a
    rollout). Everything that ``train()`` does to the parameters counts, steps of mitigations too. Mean over
    the calls since the last snapshot; of calls less than 1,000 environment steps apart, the first.

    A task may take several ``learn()``s, one after the other: set ``first`` and ``last`` before each. What is
    remembered from one to the next is ``state`` and ``tensors``, for a process that goes on with the next.

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
        self.first = True
        """Whether the ``learn()`` to come is the first of its task, where ``init`` belongs."""
        self.last = True
        """Whether it is the last, where ``end`` belongs."""
        self._reference: Copies = {}
        self._updates = 0
        self._steps = _UpdateNorms()

    def state(self) -> dict[str, Any]:
        """What is remembered from one ``learn()`` of a task to the next, for JSON."""
        return {"updates": self._updates, "steps": self._steps.state()}

    def tensors(self) -> dict[str, Tensor]:
        """The same in tensors: the parameters at the switch, ``<network>/<name>``, while they are needed."""
        if not self.every and "end" not in self.moments:
            return {}
        return {f"{n}/{k}": p for n, parameters in self._reference.items() for k, p in parameters.items()}

    def load_state(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Remember what another process did: ``state`` and ``tensors`` of its callback."""
        self._updates = int(state["updates"])
        self._steps.load_state(state["steps"])
        self._reference = {}
        for name, tensor in tensors.items():
            network, _, parameter = name.partition("/")
            self._reference.setdefault(network, {})[parameter] = tensor

    def _on_training_start(self) -> None:
        if not self.first:
            return
        self._updates = self._count()
        if "init" in self.moments:
            self._take("init")
        # From here on weight changes are those since the switch.
        self._reference = _copied(self._networks())
        self._steps = _UpdateNorms()

    def _on_rollout_end(self) -> None:
        self._look()

    def _on_rollout_start(self) -> None:
        self._look()
        if self.every and self._count() - self._updates >= self.every:
            self._updates = self._count()
            self._take(f"update-{self._updates:07d}")

    def _look(self) -> None:
        """See what the last call of ``train()`` changed, and make ready for the next."""
        self._steps.after(self._networks, self._gradient_updates(), self.num_timesteps)
        self._steps.before(self._networks, self._gradient_updates(), self.num_timesteps)

    def _on_training_end(self) -> None:
        self._steps.after(self._networks, self._gradient_updates(), self.num_timesteps)
        if self.last and "end" in self.moments:
            self._take("end")

    def _on_step(self) -> bool:
        return True

    def _count(self) -> int:
        return int(getattr(self.model, "_n_updates", 0))

    def _gradient_updates(self) -> int:
        return int(getattr(self.model, "gradient_updates", self._count()))

    def _networks(self) -> Networks:
        return cast(Measurable, self.model).networks()

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
        snapshot.values.update(self._steps.finish())
        try:
            snapshot.values.update(self._data_changes(snapshot))
        except Exception as error:
            snapshot.failures["comparison"] = f"{type(error).__name__}: {error}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            snapshot.save(self._file(self.task, moment))
            self._log(snapshot)
            if self.on_snapshot is not None:
                self.on_snapshot(snapshot)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # no fault of the measurement: room can be made, and the task gone on with
            snapshot.failures["record"] = f"{type(error).__name__}: {error}"
        for instrument, reason in snapshot.failures.items():
            text = f"snapshot {moment!r} of task {self.task}: {instrument} failed, training goes on: {reason}"
            # A filter that turns warnings into errors must not end the run either.
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _file(self, task: int, moment: str) -> Path:
        return self.folder / f"task-{task:03d}-{moment}.npz"

    def _data_changes(self, snapshot: Snapshot) -> dict[str, float]:
        """What changed from the end of the task before, if this is an ``init`` and that was measured."""
        end = self._file(self.task - 1, "end")
        if snapshot.label != "init" or not snapshot.spectra or not end.exists():
            return {}
        return data_changes(Snapshot.load(end), snapshot)

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
