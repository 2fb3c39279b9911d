"""Everything measured at one moment of training, as a record that can be saved and logged."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import compat
from .errors import EpsilonBelowFloor, UnreadableFile
from .files import read_arrays, write_arrays
from .settings import SnapshotSettings
from .spectrum import Spectrum

#: Version of the file format; a newer file is refused, an older one is read.
SCHEMA = 1


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

    def below_floor(self) -> dict[str, float]:
        """The epsilon-ranks that `scalars` leaves out, by tag, each with what its spectrum resolves.

        The floor is in the units of the eigenvalues, for relative ranks as a share of the norm.
        """
        there = self.scalars()
        found: dict[str, float] = {}
        for part, spectrum in self.spectra.items():
            for kind, epsilons, unit in (
                ("epsilon_rank", self.settings.epsilons, 1.0),
                ("relative_rank", self.settings.relative_epsilons, spectrum.norm),
            ):
                for epsilon in epsilons:
                    tag = f"spectrum/{part}/{kind}_{epsilon:g}"
                    if tag not in there:
                        found[tag] = spectrum.floor / unit
        return found

    def save(self, path: str | Path) -> Path:
        """Write one ``.npz`` without pickles, whole or not at all; it is on the disk when this returns."""
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
        return write_arrays(Path(path), {"snapshot": np.array(json.dumps(record)), **arrays})

    @staticmethod
    def load(path: str | Path) -> "Snapshot":
        """Read what :meth:`save` wrote; nothing in the file is executed.

        Raises:
            UnreadableFile: it is no such file, or one of a newer version.
        """
        arrays = read_arrays(path, "snapshot")
        try:
            record = json.loads(str(arrays["snapshot"]))
            schema = int(record["schema"])
        except Exception as error:  # whatever a damaged record makes of it
            raise UnreadableFile(f"{path} is not a snapshot file ({error})") from error
        if schema > SCHEMA:
            raise UnreadableFile(
                f"{path} has format {schema}, this version reads up to {SCHEMA}; update pliant"
            )
        try:
            return _rebuilt(record, arrays)
        except Exception as error:  # whatever a damaged record makes of it
            raise UnreadableFile(f"{path} is a damaged snapshot ({type(error).__name__}: {error})") from error


def _rebuilt(record: Any, arrays: Mapping[str, Any]) -> Snapshot:
    """A snapshot from its record and arrays; anything that does not fit together raises."""
    stored = record["settings"].items()
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored}
    return Snapshot(
        label=str(record["label"]),
        settings=SnapshotSettings(**settings),
        samples=int(record["samples"]),
        spectra={
            str(part): Spectrum.from_arrays(_below(arrays, f"spectrum/{part}/")) for part in record["parts"]
        },
        features={layer: _numbers(statistics) for layer, statistics in record["features"].items()},
        values=_numbers(record["values"]),
        arrays=_below(arrays, "array/"),
        seconds=_numbers(record["seconds"]),
        failures={name: str(reason) for name, reason in record["failures"].items()},
        about=dict(record["about"]),
    )


def _numbers(table: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in table.items()}


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
    if settings.compat == "lop-jax" and spectrum.operator.startswith("hessian"):
        tags[f"spectrum/{part}/lop-jax/effective_rank"] = compat.effective_rank(spectrum)
        for epsilon in settings.epsilons:
            tags[f"spectrum/{part}/lop-jax/epsilon_rank_{epsilon:g}"] = compat.epsilon_rank(spectrum, epsilon)
    for name, estimate in estimates.items():
        tags[f"spectrum/{part}/{name}"] = estimate.value
        if spectrum.method != "exact":
            tags |= {
                f"spectrum/{part}/{name}_low": estimate.low,
                f"spectrum/{part}/{name}_high": estimate.high,
            }
    return tags
