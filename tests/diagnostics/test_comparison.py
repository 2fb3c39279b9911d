"""What changed, and was it the data or the parameters?"""

from itertools import pairwise

import numpy as np
import pytest

from pliant.diagnostics import Snapshot, SnapshotSettings, compat, errors, operator_spectrum, take_snapshot
from pliant.diagnostics.comparison import cause, changes, data_changes, spectral_distance, what_changed


def exact(matrix_operator, values):
    return operator_spectrum(matrix_operator(np.asarray(values, dtype=float)), "exact")


def test_distance_of_two_spectra_is_the_transport_between_them(matrix_operator):
    first, second = exact(matrix_operator, [0.0, 1.0, 2.0]), exact(matrix_operator, [1.0, 2.0, 3.0])
    assert spectral_distance(first, second) == pytest.approx(1.0 / 2.0)
    assert spectral_distance(first, first) == 0.0
    assert spectral_distance(exact(matrix_operator, [0.0, 0.0]), exact(matrix_operator, [2.0, 4.0])) == 1.0
    with pytest.raises(errors.InvalidSetting, match="compare equal matrices"):
        spectral_distance(first, exact(matrix_operator, [1.0]))


def test_the_same_parameters_on_other_data_are_a_change_of_data():
    def at(task, parameters):
        return Snapshot("x", SnapshotSettings(), about={"task": task, "parameters": parameters})

    assert cause(at(3, "a"), at(4, "a")) == "data"
    assert cause(at(3, "a"), at(3, "b")) == "parameters"
    assert cause(at(3, "a"), at(4, "b")) == "both"
    with pytest.raises(errors.InvalidSetting, match="do not say their parameters and task"):
        cause(Snapshot("x", SnapshotSettings()), at(1, "a"))


def test_a_change_is_certain_when_the_brackets_are_apart(tiny_agent, tiny_batch):
    settings = SnapshotSettings(epsilons=(0.05,), relative_epsilons=())
    agent = tiny_agent()
    before = take_snapshot(agent, tiny_batch, settings)
    after = take_snapshot(agent, tiny_batch._replace(coefficient=50.0), settings)
    found = changes(before, after)
    assert set(found) == {f"{part}/epsilon_rank_0.05" for part in ("actor", "critic", "total")}
    change = found["actor/epsilon_rank_0.05"]
    assert change.certain
    assert change.value > 0
    assert not changes(before, before)["actor/epsilon_rank_0.05"].certain


def test_the_table_of_changes_passes_over_snapshots_that_failed(tiny_agent, tiny_batch):
    settings = SnapshotSettings(epsilons=(0.05,), relative_epsilons=())
    agent = tiny_agent()
    end = take_snapshot(agent, tiny_batch, settings, "end")
    failed = Snapshot("init", settings, failures={"snapshot": "OSError"})
    init = take_snapshot(agent, tiny_batch._replace(coefficient=50.0), settings, "init")
    end.about["task"], init.about["task"] = 0, 2
    steps = what_changed([end, failed, init])
    assert {s.quantity for s in steps} == {f"{p}/epsilon_rank_0.05" for p in ("actor", "critic", "total")}
    assert {(s.before, s.after, s.cause) for s in steps} == {("task 0, end", "task 2, init", "data")}
    assert all(s.change.certain for s in steps)
    assert what_changed([]) == what_changed([init]) == []
    tags = data_changes(end, init)
    assert tags["switch/actor/data_change_epsilon_rank_0.05_low"] > 0
    assert data_changes(failed, init) == {}


def literal_reference(values, weights, points):
    """The reference's formulas, one grid point after the other."""
    low, high = min(values) - 0.01, max(values) + 0.01
    grid = [low + (high - low) * i / (points - 1) for i in range(points)]
    variance = 1e-5 * max(1.0, high - low)
    density = [
        sum(
            w * np.exp(-((x - v) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
            for v, w in zip(values, weights, strict=True)
        )
        for x in grid
    ]
    total = sum(density) * (grid[1] - grid[0])
    return grid, [d / total for d in density]


def test_compat_reproduces_the_references_density_and_its_bridged_rank(matrix_operator):
    spectrum = operator_spectrum(matrix_operator(np.linspace(-0.5, 2.0, 60)), "lanczos", probes=1, depth=12)
    grid, density = compat.density(spectrum, points=400)
    expected_grid, expected = literal_reference(spectrum.nodes[0], spectrum.weights[0], 400)
    assert grid == pytest.approx(expected_grid)
    assert density == pytest.approx(expected, rel=1e-9, abs=1e-12)
    kept = [(x, d) for x, d in zip(expected_grid, expected, strict=True) if abs(x) > 0.1]
    trapezoids = sum((x1 - x0) * (d0 + d1) / 2 for (x0, d0), (x1, d1) in pairwise(kept))
    assert compat.epsilon_rank(spectrum, 0.1, points=400) == pytest.approx(trapezoids)


def test_the_bridge_over_the_gap_inflates_the_references_rank(matrix_operator):
    values = np.concatenate(
        [np.full(300, 0.0), np.full(300, 0.021), np.full(300, -0.021), np.linspace(0.1, 5, 100)]
    )
    spectrum = exact(matrix_operator, values)
    assert spectrum.epsilon_rank(0.02).value == 0.7
    assert compat.epsilon_rank(spectrum, 0.02) > 0.8


def test_the_references_effective_rank_counts_every_ritz_value_once(matrix_operator):
    values = np.concatenate([[1.0], np.zeros(99)])
    spectrum = operator_spectrum(matrix_operator(values + 1.0), "lanczos", probes=1, depth=10)
    p = spectrum.nodes[0] / spectrum.nodes[0].sum()
    assert compat.effective_rank(spectrum) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
