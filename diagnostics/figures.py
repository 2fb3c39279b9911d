"""Figures of measurements, drawn from nodes and numbers; the only module that knows matplotlib.

Figures are made through the object interface: no window, no global state, safe in any thread.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .errors import EpsilonBelowFloor, InvalidSetting
from .quadrature import Array
from .snapshot import Snapshot
from .spectrum import Spectrum

#: Densities below one eigenvalue in this many are not drawn.
LOWEST_SHARE = 1e-8


def _spectra(source: Snapshot | Mapping[str, Spectrum]) -> Mapping[str, Spectrum]:
    if isinstance(
        source, Snapshot
    ):  # one panel for each part; the spectra of single layers are left in the file
        spectra: Mapping[str, Spectrum] = {part: s for part, s in source.spectra.items() if "." not in part}
    else:
        spectra = source
    if not spectra:
        raise InvalidSetting("there is no spectrum to draw; measure one first")
    return spectra


def spectrum_figure(source: Snapshot | Mapping[str, Spectrum], title: str = "") -> Figure:
    """Log-density of the eigenvalues, one panel per part, with every node as a tick below.

    The density is a Gaussian smoothing of the nodes, for the eye; numbers come from the nodes themselves.
    """
    spectra = _spectra(source)
    columns = min(len(spectra), 3)
    rows = -(-len(spectra) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[len(spectra) :]:
        panel.remove()
    for panel, (part, spectrum) in zip(panels, spectra.items(), strict=False):
        _density(panel, spectrum)
        panel.set_title(f"{part} ({spectrum.operator}, {spectrum.size:,} parameters)", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _density(panel: Axes, spectrum: Spectrum) -> None:
    nodes, weights = spectrum.nodes[0], spectrum.weights.mean(0)
    spread = float(nodes.max() - nodes.min()) or (spectrum.norm or 1.0)
    grid = np.linspace(nodes.min() - 0.05 * spread, nodes.max() + 0.05 * spread, 800)
    density = spectrum.density(grid, width=0.008 * spread)
    floor = LOWEST_SHARE / spread
    panel.semilogy(grid, np.maximum(density, floor), linewidth=1.2)
    panel.fill_between(grid, floor, np.maximum(density, floor), alpha=0.25)
    visible = nodes[weights > LOWEST_SHARE]
    panel.plot(visible, np.full(len(visible), floor), "|", color="black", markersize=5, alpha=0.6)
    panel.set_ylim(bottom=floor)
    panel.set_xlabel("eigenvalue")
    panel.set_ylabel("density")
    panel.tick_params(labelsize=8)


def epsilon_rank_figure(
    source: Snapshot | Mapping[str, Spectrum],
    epsilons: Sequence[float] | None = None,
    relative: bool = False,
    title: str = "",
) -> Figure:
    """The epsilon-rank over epsilon with its bracket as a band, all parts in one panel.

    Args:
        source: spectra by part.
        epsilons: thresholds; by default 13 of them over six decades below the norm, as far as the precision
            resolves.
        relative: draw against epsilon over the spectral norm.
        title: above the panel.
    """
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    panel = figure.subplots()
    spectra = _spectra(source)
    if epsilons is None and not relative:
        # The same absolute thresholds for all parts, so that a union finds the bounds of its parts worked
        # out.
        ranges = [default_epsilons(spectrum) for spectrum in spectra.values()]
        low, high = min(r[0] for r in ranges), max(r[-1] for r in ranges)
        shared = np.geomspace(low, high, len(ranges[0]))
    for part, spectrum in spectra.items():
        unit = spectrum.norm if relative and spectrum.norm > 0 else 1.0
        points = []
        if epsilons is not None:
            thresholds = np.asarray(epsilons) * unit
        else:
            thresholds = default_epsilons(spectrum) if relative else shared
        for threshold in thresholds:
            try:
                points.append((threshold / unit, spectrum.epsilon_rank(float(threshold))))
            except EpsilonBelowFloor:
                continue
        if not points:
            continue
        x = [at for at, _ in points]
        (line,) = panel.semilogx(x, [e.value for _, e in points], marker=".", linewidth=1.2, label=part)
        panel.fill_between(
            x, [e.low for _, e in points], [e.high for _, e in points], alpha=0.2, color=line.get_color()
        )
    panel.set_xlabel("epsilon / spectral norm" if relative else "epsilon")
    panel.set_ylabel("share of eigenvalues beyond epsilon")
    panel.set_ylim(-0.02, 1.02)
    panel.legend(fontsize=8)
    if title:
        panel.set_title(title, fontsize=10)
    return figure


def default_epsilons(spectrum: Spectrum, count: int = 13) -> Array:
    """Thresholds evenly spaced on a log scale from the norm down six decades, or to the floor."""
    top = spectrum.norm or 1.0
    return np.geomspace(max(1e-6 * top, 1.001 * spectrum.floor), 0.99 * top, count)


def feature_figure(features: Mapping[str, Mapping[str, float]], title: str = "") -> Figure:
    """Ranks and idle units of every layer as bars: both as a share of the layer's width."""
    if not features:
        raise InvalidSetting("there are no features to draw; measure them first")
    figure = Figure(figsize=(1.5 + 1.6 * len(features), 3.2), layout="constrained")
    panel = figure.subplots()
    position = np.arange(len(features))
    for offset, (name, scaled) in enumerate(
        (("effective_rank", True), ("srank", True), ("dead", False), ("dormant", False))
    ):
        shares = [values[name] / (values["width"] if scaled else 1.0) for values in features.values()]
        panel.bar(position + 0.2 * (offset - 1.5), shares, width=0.19, label=name.replace("_", " "))
    panel.set_xticks(position, list(features))
    panel.set_ylim(0, 1)
    panel.set_ylabel("share of the width")
    panel.legend(fontsize=7)
    if title:
        panel.set_title(title, fontsize=10)
    return figure


def covariance_figure(matrices: Mapping[str, Array], title: str = "") -> Figure:
    """Gradient covariance of minibatches, one panel per part: red where they agree, blue where opposed."""
    if not matrices:
        raise InvalidSetting("there is no gradient covariance to draw; measure gradients first")
    figure = Figure(figsize=(3.4 * len(matrices) + 0.6, 3.2), layout="constrained")
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    for panel, (part, matrix) in zip(panels, matrices.items(), strict=True):
        image = panel.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
        panel.set_title(part, fontsize=9)
        panel.set_xlabel("minibatch")
        panel.tick_params(labelsize=8)
    figure.colorbar(image, ax=list(panels), shrink=0.8)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure
