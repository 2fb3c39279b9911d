"""Everything measured at one moment of training: spectra, features, norms, and what it cost."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .batches import sample_count, split
from .curvature import METHODS, operator_spectrum
from .errors import (
    EpsilonBelowFloor,
    InvalidSetting,
    MeasurementError,
    RatioNotOne,
    UnknownOption,
    UnreadableFile,
)
from .features import distance, measure_features, norm
from .operators import GaussNewtonOperator, HessianOperator, MicroBatched, Operator
from .protocol import Batch, HasRatios, Measurable, Objective
from .spectrum import Spectrum

SCHEMA = 1

OPERATORS = ("hessian", "ggn")

#: A clipped surrogate is smooth where every ratio is one; beyond this the autograd Hessian misses its kinks.
RATIO_TOLERANCE = 1e-5


@dataclass(frozen=True)
class SnapshotSettings:
    """What a snapshot holds.

    Attributes:
        parts: objectives to measure, all of the agent's if empty.
        operators: ``hessian``, ``ggn`` (for a policy's KL the Fisher matrix); none measures no spectrum.
        method: ``auto``, ``exact`` or ``lanczos``.
        probes: starting vectors of the Lanczos block.
        depth: Lanczos steps; 20 resolve outliers and ranks at 1e-2 of the norm, use 50 for the bulk.
        seed: of the probes, the same at every snapshot, so that two snapshots differ by what they measure.
        epsilons: absolute thresholds of the epsilon-rank, fixed in advance.
        relative_epsilons: thresholds in units of the spectral norm.
        bracket: ``block`` or ``probe``.
        micro_batch: at most this many samples in a graph at once; 0 for the whole batch.
        unclipped: measure the loss without clipping, for data of another policy.
        features: measure the layers' features.
    """

    parts: tuple[str, ...] = ()
    operators: tuple[str, ...] = ("hessian",)
    method: str = "auto"
    probes: int = 10
    depth: int = 20
    seed: int = 0
    epsilons: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    relative_epsilons: tuple[float, ...] = (1e-3, 1e-2)
    bracket: str = "block"
    micro_batch: int = 0
    unclipped: bool = False
    features: bool = True

    def __post_init__(self) -> None:
        for operator in self.operators:
            if operator not in OPERATORS:
                raise UnknownOption("operators", operator, OPERATORS)
        if self.method not in METHODS:
            raise UnknownOption("method", self.method, METHODS)
        if self.probes < 1 or self.depth < 1 or self.micro_batch < 0:
            raise InvalidSetting(
                f"probes={self.probes} and depth={self.depth} must be at least 1, "
                f"micro_batch={self.micro_batch} at least 0"
            )
        if any(not epsilon > 0 for epsilon in (*self.epsilons, *self.relative_epsilons)):
            raise InvalidSetting(f"epsilons {self.epsilons} and {self.relative_epsilons} must be positive")


@dataclass(frozen=True)
class Snapshot:
    """What was measured at one moment.

    Attributes:
        label: the moment, ``init`` or ``end``, say.
        settings: with which it was measured.
        samples: size of the batch.
        spectra: by part; parts measured with another operator than the Hessian carry its name, ``actor-ggn``.
        features: statistics by layer.
        values: further numbers by tag.
        arrays: further arrays by name.
        seconds: wall time by instrument.
        failures: what could not be measured, and why.
        about: where it stands in its run (task, environment steps), for readers of the file.
    """

    label: str
    settings: SnapshotSettings
    samples: int = 0
    spectra: dict[str, Spectrum] = field(default_factory=dict)
    features: dict[str, dict[str, float]] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def scalars(self) -> dict[str, float]:
        """Every number by its tag: ``plasticity/<layer>/<name>``, ``spectrum/<part>/<name>`` and bracket."""
        numbers = {
            f"plasticity/{layer}/{name}": float(value)
            for layer, statistics in self.features.items()
            for name, value in statistics.items()
        }
        for part, spectrum in self.spectra.items():
            numbers |= spectrum_scalars(part, spectrum, self.settings)
        return numbers | self.values

    def save(self, path: str | Path) -> Path:
        """Write one ``.npz`` without pickles."""
        record = {
            "schema": SCHEMA,
            "label": self.label,
            "settings": asdict(self.settings),
            "samples": self.samples,
            "features": self.features,
            "values": self.values,
            "seconds": self.seconds,
            "failures": self.failures,
            "about": self.about,
            "scalars": self.scalars(),
            "parts": list(self.spectra),
        }
        arrays: dict[str, Any] = {f"array/{name}": value for name, value in self.arrays.items()}
        for part, spectrum in self.spectra.items():
            arrays |= {f"spectrum/{part}/{name}": value for name, value in spectrum.arrays().items()}
        path = Path(path)
        with path.open("wb") as file:
            np.savez_compressed(file, snapshot=np.array(json.dumps(record)), **arrays)
        return path

    @staticmethod
    def load(path: str | Path) -> "Snapshot":
        """Read what :meth:`save` wrote; nothing in the file is executed.

        Raises:
            UnreadableFile: it is no such file, or one of a newer version.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            record = json.loads(str(arrays["snapshot"]))
        except FileNotFoundError:
            raise
        except (KeyError, ValueError, OSError) as error:
            raise UnreadableFile(f"{path} is not a snapshot file ({error})") from error
        if record["schema"] > SCHEMA:
            raise UnreadableFile(
                f"{path} has format {record['schema']}, this version reads up to {SCHEMA}; update pliant"
            )
        stored = record["settings"].items()
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored}
        return Snapshot(
            label=record["label"],
            settings=SnapshotSettings(**settings),
            samples=record["samples"],
            spectra={
                part: Spectrum.from_arrays(_below(arrays, f"spectrum/{part}/")) for part in record["parts"]
            },
            features=record["features"],
            values=record["values"],
            arrays=_below(arrays, "array/"),
            seconds=record["seconds"],
            failures=record["failures"],
            about=record["about"],
        )


def _below(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def spectrum_scalars(part: str, spectrum: Spectrum, settings: SnapshotSettings) -> dict[str, float]:
    """A spectrum's numbers by tag; an epsilon that its precision cannot resolve is left out."""
    estimates = {
        "trace": spectrum.trace(),
        "frobenius_norm": spectrum.frobenius_norm(),
        "effective_rank": spectrum.effective_rank(),
        "largest": spectrum.largest()[0],
        "smallest": spectrum.smallest()[0],
    }
    for name, epsilons, relative in (
        ("epsilon_rank", settings.epsilons, False),
        ("relative_rank", settings.relative_epsilons, True),
    ):
        for epsilon in epsilons:
            try:
                estimates[f"{name}_{epsilon:g}"] = spectrum.epsilon_rank(epsilon, relative, settings.bracket)
            except EpsilonBelowFloor:
                continue
    tags: dict[str, float] = {}
    for name, estimate in estimates.items():
        tags[f"spectrum/{part}/{name}"] = estimate.value
        if spectrum.method != "exact":
            tags |= {
                f"spectrum/{part}/{name}_low": estimate.low,
                f"spectrum/{part}/{name}_high": estimate.high,
            }
    return tags


def take_snapshot(
    agent: Measurable,
    batch: Batch,
    settings: SnapshotSettings | None = None,
    label: str = "",
    reference: Mapping[str, Mapping[str, Tensor]] | None = None,
    strict: bool = False,
) -> Snapshot:
    """Measure an agent on a batch, leaving it, and every random state, as they are.

    An instrument that fails is recorded in ``failures`` and the others go on, unless ``strict``.

    Args:
        agent: anything with the methods of :class:`.protocol.Measurable`.
        batch: fresh data, gathered by the present policy.
        settings: what to measure.
        label: the moment.
        reference: parameters by network at the last switch, to measure how far they have moved.
        strict: raise what goes wrong instead of recording it.

    Raises:
        EmptyBatch: there is no sample (always raised).
    """
    settings = settings or SnapshotSettings()
    snapshot = Snapshot(label, settings, samples=sample_count(batch))
    began = time.perf_counter()

    def attempt(name: str, instrument: Callable[[], None]) -> None:
        start = time.perf_counter()
        try:
            instrument()
        except Exception as error:
            if strict:
                raise
            snapshot.failures[name] = f"{type(error).__name__}: {error}"
        snapshot.seconds[name] = time.perf_counter() - start

    with undisturbed(agent.policy):
        if settings.features:
            attempt("features", lambda: snapshot.features.update(_features(agent, batch)))
        attempt("norms", lambda: snapshot.values.update(_norms(agent, reference)))
        if settings.operators:
            attempt("spectra", lambda: _measure_spectra(agent, batch, snapshot, attempt))
    snapshot.seconds["total"] = time.perf_counter() - began
    return snapshot


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module's mode and torch's random states are as before."""
    modes = {child: child.training for child in module.modules()}
    devices = sorted({p.device.index or 0 for p in module.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        try:
            module.eval()
            yield
        finally:
            for child, mode in modes.items():
                child.training = mode


def _features(agent: Measurable, batch: Batch) -> dict[str, dict[str, float]]:
    with torch.no_grad():
        return measure_features(agent.features(agent.observations(batch)))


def _norms(agent: Measurable, reference: Mapping[str, Mapping[str, Tensor]] | None) -> dict[str, float]:
    values = {}
    for network, parameters in agent.networks().items():
        values[f"plasticity/{network}/weight_norm"] = norm(parameters)
        if reference is not None:
            values[f"plasticity/{network}/weight_change"] = distance(parameters, reference[network])
    return values


def objective_operator(
    objective: Objective, batch: Batch, operator: str = "hessian", micro_batch: int = 0
) -> Operator:
    """The curvature of one objective on a batch, as an operator.

    With ``micro_batch`` the batch is taken in parts, weighted by their sizes: the same matrix, as the
    objective is a mean over samples whose constants (normalised advantages, targets) the batch already holds.

    Raises:
        InvalidSetting: a Gauss-Newton matrix was asked for of an objective without a loss on its outputs.
    """
    parts, weights = split(batch, micro_batch or sample_count(batch))
    builders: list[Callable[[], Operator]] = [
        partial(_one_operator, objective, part, operator) for part in parts
    ]
    return builders[0]() if len(builders) == 1 else MicroBatched(builders, weights)


def _one_operator(objective: Objective, batch: Batch, operator: str) -> Operator:
    if operator == "hessian":
        return HessianOperator(lambda: objective.loss(batch), objective.parameters)
    outputs, loss = objective.outputs, objective.output_loss
    if outputs is None or loss is None:
        raise InvalidSetting(
            f"objective {objective.name!r} has no loss on its outputs, hence no Gauss-Newton matrix"
        )
    return GaussNewtonOperator(
        lambda: (outputs(batch), lambda values: loss(values, batch)), objective.parameters
    )


def check_ratios(agent: Measurable, batch: Batch) -> float:
    """The largest ``|ratio - 1|`` of the batch, 0 for agents without ratios.

    Raises:
        RatioNotOne: beyond 1e-5: the batch was gathered by another policy.
    """
    if not isinstance(agent, HasRatios):
        return 0.0
    with torch.no_grad():
        off = float((agent.ratios(batch) - 1.0).abs().max())
    if not off <= RATIO_TOLERANCE:
        raise RatioNotOne(
            f"max |ratio - 1| = {off:.3g} > {RATIO_TOLERANCE:g}: another policy gathered this batch, where "
            "the clipped loss has "
            "kinks that its Hessian misses; gather afresh, or set unclipped=True"
        )
    return off


def _measure_spectra(
    agent: Measurable, batch: Batch, snapshot: Snapshot, attempt: Callable[[str, Callable[[], None]], None]
) -> None:
    settings = snapshot.settings
    if not settings.unclipped and isinstance(agent, HasRatios):
        snapshot.values["spectrum/max_ratio_error"] = check_ratios(agent, batch)
    objectives = dict(agent.objectives(unclipped=settings.unclipped))
    unknown = [part for part in settings.parts if part not in objectives]
    if unknown:
        raise UnknownOption("parts", unknown[0], tuple(objectives))
    for operator in settings.operators:
        joined = joinable(objectives)
        for name in settings.parts or objectives:
            objective = objectives[name]
            if operator == "ggn" and objective.output_loss is None and name not in joined:
                continue
            part = name if operator == "hessian" else f"{name}-{operator}"
            attempt(
                f"spectrum/{part}",
                partial(_measure_part, snapshot, objectives, joined, batch, operator, name, part),
            )


def _measure_part(
    snapshot: Snapshot,
    objectives: Mapping[str, Objective],
    joined: Mapping[str, tuple[str, ...]],
    batch: Batch,
    operator: str,
    name: str,
    part: str,
) -> None:
    def measure(which: str) -> Spectrum:
        known = snapshot.spectra.get(which if operator == "hessian" else f"{which}-{operator}")
        if known is not None:
            return known
        settings = snapshot.settings
        matrix = objective_operator(objectives[which], batch, operator, settings.micro_batch)
        return operator_spectrum(
            matrix, settings.method, settings.probes, settings.depth, settings.seed, name=operator
        )

    snapshot.spectra[part] = (
        Spectrum.union([measure(one) for one in joined[name]]) if name in joined else measure(name)
    )


def joinable(objectives: Mapping[str, Objective]) -> dict[str, tuple[str, ...]]:
    """Objectives that are sums over others which share no parameter, so that the spectrum is the union.

    ``total`` is taken for the sum of all others; where it is their direct sum it need not be measured again.
    """
    if "total" not in objectives or len(objectives) < 2:
        return {}
    parts = tuple(name for name in objectives if name != "total")
    members = [id(p) for name in parts for p in objectives[name].parameters.values()]
    whole = {id(p) for p in objectives["total"].parameters.values()}
    return {"total": parts} if len(members) == len(set(members)) and set(members) == whole else {}


__all__ = [
    "MeasurementError",
    "Snapshot",
    "SnapshotSettings",
    "check_ratios",
    "joinable",
    "objective_operator",
    "spectrum_scalars",
    "take_snapshot",
    "undisturbed",
]
