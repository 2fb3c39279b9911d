"""Take a snapshot: run every instrument that the settings ask for on one agent and one batch."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from .batches import sample_count, split, take
from .comparison import spectral_distance
from .curvature import operator_spectrum
from .errors import NotFinite, NoVerdict
from .features import distance, measure_features, norm
from .gradients import (
    gradient_covariance,
    inactive_fraction,
    loss_and_gradient,
    minibatch_gradients,
    optimization_readiness,
    slices,
    unit_gradients,
)
from .gram import by_layer, jacobian, ntk_effective_rank
from .kronecker import kronecker_spectrum
from .memory import check_dense
from .objectives import check_ratios, joinable, objective_operator, outputs_closure, resolve
from .precision import full_precision
from .protocol import Batch, HasRatios, Measurable, Objective
from .settings import SnapshotSettings
from .snapshot import Snapshot
from .spectrum import Spectrum
from .trainability import trainability

Networks = Mapping[str, Mapping[str, Tensor]]


def take_snapshot(
    agent: Measurable,
    batch: Batch,
    settings: SnapshotSettings | None = None,
    label: str = "",
    reference: Networks | None = None,
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
    snapshot.about["parameters"] = fingerprint(agent.networks())
    began = time.perf_counter()
    with undisturbed(agent.policy), full_precision():
        _Instruments(agent, batch, snapshot, strict).run(reference)
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


def fingerprint(networks: Networks) -> str:
    """A hash of all parameters, equal only for equal ones."""
    digest = hashlib.sha256()
    for name, parameters in sorted(networks.items()):
        for key, tensor in sorted(parameters.items()):
            digest.update(f"{name}/{key}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class _Instruments:
    """One run of the instruments; each attempt is timed, and fails alone."""

    def __init__(self, agent: Measurable, batch: Batch, snapshot: Snapshot, strict: bool) -> None:
        self.agent, self.batch, self.snapshot, self.strict = agent, batch, snapshot, strict
        self.settings = snapshot.settings
        self.objectives: dict[str, Objective] = {}
        self.joined: dict[str, tuple[str, ...]] = {}
        self.parts: tuple[str, ...] = ()

    def run(self, reference: Networks | None) -> None:
        """Everything that the settings ask for."""
        if self.settings.features:
            self.attempt("features", self.features)
        self.attempt("norms", lambda: self.norms(reference))
        self.attempt("objectives", self.prepare)
        for name in self.parts:
            self.part(name)

    def part(self, name: str) -> None:
        """All that is measured of one objective, or of a group of its parameters."""
        settings, whole = self.settings, name in self.joined
        convex = whole or self.objectives[name].output_loss is not None
        for operator in settings.operators:
            if operator == "hessian" or convex:
                self.attempt(f"spectrum/{_key(name, operator)}", partial(self.spectrum, name, operator))
        if settings.minibatches and not whole:
            self.attempt(f"gradients/{name}", lambda: self.gradients(name))
        if settings.updates and not whole and _teaches(self.objectives[name]):
            self.attempt(f"trainability/{name}", lambda: self.trainability(name))

    def attempt(self, name: str, instrument: Callable[[], None]) -> None:
        """Run one instrument; time it, and record what goes wrong unless that is to be raised."""
        start = time.perf_counter()
        try:
            instrument()
        except Exception as error:
            if self.strict:
                raise
            self.snapshot.failures[name] = f"{type(error).__name__}: {error}"
        self.snapshot.seconds[name] = time.perf_counter() - start

    def features(self) -> None:
        with torch.no_grad():
            features = self.agent.features(self.agent.observations(self.batch))
        finite = {layer: values for layer, values in features.items() if torch.isfinite(values).all()}
        self.snapshot.features.update(measure_features(finite))
        if len(finite) < len(features):
            lost = ", ".join(layer for layer in features if layer not in finite)
            raise NotFinite(
                f"the features of {lost} hold NaN or infinity; look at parameters and observations"
            )

    def norms(self, reference: Networks | None) -> None:
        for network, parameters in self.agent.networks().items():
            self.snapshot.values[f"plasticity/{network}/weight_norm"] = norm(parameters)
            if reference is not None:
                moved = distance(parameters, reference[network])
                self.snapshot.values[f"plasticity/{network}/weight_change"] = moved

    def prepare(self) -> None:
        """Find the objectives and see that the batch is theirs."""
        settings = self.settings
        objectives = dict(self.agent.objectives(unclipped=settings.unclipped))
        groups = {part: resolve(part, objectives, self.agent.networks()) for part in settings.parts}
        if not settings.unclipped and isinstance(self.agent, HasRatios):
            self.snapshot.values["spectrum/max_ratio_error"] = check_ratios(self.agent, self.batch)
        self.objectives, self.joined = objectives | groups, joinable(objectives)
        self.parts = settings.parts or tuple(objectives)

    def spectrum(self, name: str, operator: str) -> None:
        """Measure one part with one operator; the union of its parts where it is their direct sum."""
        key = _key(name, operator)
        if name in self.joined:
            members = [_key(part, operator) for part in self.joined[name]]
            for part, member in zip(self.joined[name], members, strict=True):
                if member not in self.snapshot.spectra:
                    self.measure(part, operator)
            self.snapshot.spectra[key] = Spectrum.union([self.snapshot.spectra[member] for member in members])
        elif key not in self.snapshot.spectra:
            self.measure(name, operator)

    def measure(self, name: str, operator: str) -> None:
        objective, settings = self.objectives[name], self.settings
        if operator == "kfac":
            self.kronecker(name)
        elif operator == "gram":
            self.gram(name)
        else:
            matrix = objective_operator(objective, self.batch, operator, settings.micro_batch)
            self.snapshot.spectra[_key(name, operator)] = operator_spectrum(
                matrix, settings.method, settings.probes, settings.depth, settings.seed, name=operator
            )

    def kronecker(self, name: str) -> None:
        """K-FAC by layer and whole, and how far it is from the Gauss-Newton matrix where that is measured."""
        objective = self.objectives[name]
        closure = outputs_closure(objective, self.batch)
        spectra = kronecker_spectrum(closure, self.agent.policy, objective.parameters)
        for layer, spectrum in spectra.items():
            self.snapshot.spectra[_key(name, "kfac") + (f".{layer}" if layer else "")] = spectrum
        true = self.snapshot.spectra.get(_key(name, "ggn"))
        if true is not None:
            self.snapshot.values[f"spectrum/{_key(name, 'kfac')}/distance"] = spectral_distance(
                spectra[""], true
            )

    def gram(self, name: str) -> None:
        """The Gauss-Newton matrix by its Gram matrix, and the tangent kernel's rank, whole and by layer."""
        objective, snapshot = self.objectives[name], self.snapshot
        some = take(self.batch, slice(0, self.settings.gram_samples))
        closure = outputs_closure(objective, some)
        weighted = jacobian(closure, objective.parameters)
        plain = jacobian(closure, objective.parameters, weighted=False)
        key = _key(name, "gram")
        snapshot.values[f"spectrum/{key}/ntk_effective_rank"] = ntk_effective_rank(plain)
        for layer, names in by_layer(objective.parameters).items():
            snapshot.spectra[f"{key}.{layer}"] = weighted.spectrum(names, operator="gram")
            snapshot.values[f"spectrum/{key}.{layer}/ntk_effective_rank"] = ntk_effective_rank(plain, names)
        snapshot.spectra[key] = weighted.spectrum(operator="gram")

    def gradients(self, name: str) -> None:
        """Gradient norm, covariance of minibatches, units without gradient, and readiness."""
        objective, settings, values = self.objectives[name], self.settings, self.snapshot.values
        parts, shares = split(self.batch, settings.micro_batch or self.snapshot.samples)
        pairs = [loss_and_gradient(partial(objective.loss, part), objective.parameters) for part in parts]
        loss = sum(share * value for share, (value, _) in zip(shares, pairs, strict=True))
        full = torch.stack([share * slope for share, (_, slope) in zip(shares, pairs, strict=True)]).sum(0)
        values[f"plasticity/{name}/gradient_norm"] = float(full.double().norm())
        for weight, fraction in inactive_fraction(unit_gradients(objective.parameters, full)).items():
            values[f"plasticity/{name}/inactive/{weight}"] = fraction
        size = min(settings.minibatch_size, self.snapshot.samples)
        chosen = slices(self.snapshot.samples, size, settings.minibatches, settings.seed)
        check_dense(
            len(chosen), full.numel(), 8, full.device, "the minibatch gradients", "use fewer minibatches"
        )
        batches = [take(self.batch, index.to(full.device)) for index in chosen]
        rows = minibatch_gradients([partial(objective.loss, one) for one in batches], objective.parameters)
        self.snapshot.arrays[f"{name}/gradient_covariance"] = gradient_covariance(rows).cpu().numpy()
        if _teaches(objective) and loss > 0.0:
            ready = optimization_readiness(loss, full, rows)
            for quantity in ("strength", "reliability", "readiness"):
                values[f"plasticity/{name}/optimization_{quantity}"] = getattr(ready, quantity)

    def trainability(self, name: str) -> None:
        """The verdict with its numbers; where there can be none, the number that says so alone."""
        settings, objective = self.settings, self.objectives[name]
        spectrum = self.snapshot.spectra.get(_key(name, "ggn"))
        tag = f"switch/{name}/trainability"
        try:
            found = trainability(
                outputs_closure(objective, self.batch),
                objective.parameters,
                settings.learning_rate,
                settings.updates,
                spectrum,
            )
        except NoVerdict as none:
            self.snapshot.values[f"{tag}/covered"] = none.covered
        else:
            self.snapshot.values.update(found.scalars(tag))


def _teaches(objective: Objective) -> bool:
    """Whether its outputs have a loss that training is to bring down, as a divergence from them is not."""
    return objective.output_loss is not None and not objective.divergence


def _key(name: str, operator: str) -> str:
    """The name of a spectrum: the part's, and the operator's if it is not the Hessian."""
    return name if operator == "hessian" else f"{name}-{operator}"
