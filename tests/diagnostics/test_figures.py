"""Figures show what the numbers say; they are drawn without a display."""

import numpy as np
import pytest

from pliant.diagnostics import (
    epsilon_rank_figure,
    feature_figure,
    operator_spectrum,
    spectrum_figure,
    take_snapshot,
)
from pliant.diagnostics.errors import InvalidSetting
from pliant.diagnostics.figures import default_epsilons


@pytest.fixture
def spectrum(matrix_operator, network_spectrum):
    return operator_spectrum(matrix_operator(network_spectrum(300, 0)), "lanczos", probes=3, depth=8)


def test_density_has_a_panel_for_each_part_on_a_log_scale(spectrum, tmp_path):
    figure = spectrum_figure({"actor": spectrum, "critic": spectrum}, "task 1, init")
    assert [panel.get_title() for panel in figure.axes] == [
        f"{p} (hessian, 300 parameters)" for p in ("actor", "critic")
    ]
    for panel in figure.axes:
        assert panel.get_yscale() == "log"
        x, y = panel.lines[0].get_data()
        assert np.trapezoid(y, x) == pytest.approx(1.0, abs=0.02)
        assert x[0] < spectrum.nodes.min() < spectrum.nodes.max() < x[-1]
    figure.savefig(tmp_path / "density.png")
    assert (tmp_path / "density.png").stat().st_size > 5_000


def test_epsilon_rank_curve_is_the_spectrums_and_its_band_the_bracket(spectrum, tmp_path):
    figure = epsilon_rank_figure({"actor": spectrum}, epsilons=(0.01, 0.1, 1.0))
    x, y = figure.axes[0].lines[0].get_data()
    assert list(x) == [0.01, 0.1, 1.0]
    assert list(y) == [spectrum.epsilon_rank(e).value for e in (0.01, 0.1, 1.0)]
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(spectrum.epsilon_rank(0.01).high)
    figure.savefig(tmp_path / "rank.png")


def test_relative_curve_is_over_the_norm(spectrum):
    figure = epsilon_rank_figure({"actor": spectrum}, epsilons=(0.01,), relative=True)
    x, y = figure.axes[0].lines[0].get_data()
    assert x == pytest.approx([0.01])
    assert y == pytest.approx([spectrum.epsilon_rank(0.01, relative=True).value])


def test_default_thresholds_span_what_the_precision_resolves(spectrum):
    thresholds = default_epsilons(spectrum)
    assert thresholds[0] >= spectrum.floor
    assert thresholds[-1] < spectrum.norm


def test_feature_bars_are_shares(tiny_agent, tiny_batch, tmp_path):
    snapshot = take_snapshot(tiny_agent(), tiny_batch)
    figure = feature_figure(snapshot.features)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights[0] == pytest.approx(snapshot.features["actor/0"]["effective_rank"] / 6)
    assert len(heights) == 2 * 4
    spectrum_figure(snapshot).savefig(tmp_path / "parts.png")


def test_nothing_to_draw_is_named():
    with pytest.raises(InvalidSetting, match="no spectrum to draw"):
        spectrum_figure({})
    with pytest.raises(InvalidSetting, match="no features to draw"):
        feature_figure({})
