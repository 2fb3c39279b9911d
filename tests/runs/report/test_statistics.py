"""Aggregates over seeds: closed forms, scipy's as oracle, and coverage."""

import numpy as np
import pytest
from scipy import stats

from pliant.runs.report.statistics import (
    interquartile_mean,
    probability_of_improvement,
    spearman,
    spearman_interval,
    stratified_bootstrap,
)


def test_the_interquartile_mean_is_scipys_trimmed_mean_over_runs_and_tasks() -> None:
    generator = np.random.default_rng(0)
    for shape in ((1, 1), (3, 1), (5, 7), (10, 20)):
        scores = generator.normal(size=shape)
        assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))


def test_the_interquartile_mean_ignores_the_extremes_but_not_the_middle() -> None:
    assert interquartile_mean([[-1e9, 1.0], [3.0, 1e9]]) == 2.0


def test_the_bootstrap_of_three_runs_reaches_from_the_worst_to_the_best() -> None:
    """The mean of three draws from {0, 1/2, 1} is 0, and is 1, with probability 1/27, more than 2.5 %."""
    interval = stratified_bootstrap([[0.0], [0.5], [1.0]], statistic=lambda x: x.mean((-2, -1)))
    assert (interval.value, interval.low, interval.high) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize("runs", [1, 2])
def test_too_few_runs_give_a_value_and_no_interval(runs: int) -> None:
    interval = stratified_bootstrap(np.arange(runs)[:, None])
    assert interval.value == (runs - 1) / 2
    assert np.isnan([interval.low, interval.high]).all()


def test_equal_runs_leave_no_doubt_and_one_run_gives_no_interval() -> None:
    equal = stratified_bootstrap(np.full((4, 3), 2.0))
    assert (equal.value, equal.low, equal.high) == (2.0, 2.0, 2.0)
    single = stratified_bootstrap([[2.0, 4.0]])
    assert single.value == 3.0
    assert np.isnan([single.low, single.high]).all()


def test_the_same_data_give_the_same_interval() -> None:
    scores = np.random.default_rng(2).normal(size=(6, 4))
    assert stratified_bootstrap(scores) == stratified_bootstrap(scores)
    assert stratified_bootstrap(scores) != stratified_bootstrap(scores, seed=1)


@pytest.mark.parametrize("whole_runs", [True, False])
def test_the_interval_of_a_mean_covers_the_truth_about_as_often_as_it_says(whole_runs: bool) -> None:
    generator = np.random.default_rng(3)
    trials, covered = 300, 0
    for trial in range(trials):
        scores = generator.normal(size=(20, 2))
        interval = stratified_bootstrap(
            scores,
            statistic=lambda x: x.mean((-2, -1)),
            whole_runs=whole_runs,
            repetitions=400,
            seed=trial,
        )
        covered += interval.low <= 0.0 <= interval.high
    assert 0.88 <= covered / trials <= 0.98  # 0.95 less what 20 runs and percentiles cost


def test_tasks_of_one_run_that_move_together_are_not_counted_as_independent() -> None:
    runs = np.random.default_rng(4).normal(size=(20, 1)) * np.ones((1, 25))
    whole = stratified_bootstrap(runs, statistic=lambda x: x.mean((-2, -1)))
    independent = stratified_bootstrap(runs, statistic=lambda x: x.mean((-2, -1)), whole_runs=False)
    # The mean of 25 equal tasks knows no more than one: independence claims a fifth of the width.
    assert (whole.high - whole.low) / (independent.high - independent.low) == pytest.approx(5.0, rel=0.15)


def test_the_probability_of_improvement_is_the_mann_whitney_statistic() -> None:
    generator = np.random.default_rng(5)
    ours, theirs = generator.integers(0, 4, size=(6, 3)), generator.integers(0, 4, size=(5, 3))
    expected = np.mean([stats.mannwhitneyu(ours[:, m], theirs[:, m]).statistic / 30 for m in range(3)])
    assert probability_of_improvement(ours, theirs) == pytest.approx(expected)
    assert probability_of_improvement(ours, ours) == 0.5
    assert probability_of_improvement(ours + 10, theirs) == 1.0


def test_groups_are_resampled_each_within_itself() -> None:
    interval = stratified_bootstrap(
        [[1.0], [2.0], [3.0]], [[0.0], [0.5], [0.7]], statistic=probability_of_improvement
    )
    assert (interval.value, interval.low, interval.high) == (1.0, 1.0, 1.0)


def test_spearman_is_scipys_with_ties_too() -> None:
    generator = np.random.default_rng(6)
    for _ in range(20):
        x, y = generator.integers(0, 6, size=(2, 15))
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert np.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_the_correlation_of_a_monotone_relation_is_one_and_certain() -> None:
    runs = [(np.arange(5) + 10 * r, np.exp(np.arange(5) + 10 * r)) for r in range(6)]
    interval = spearman_interval(runs)
    assert (interval.value, interval.low, interval.high) == (1.0, 1.0, 1.0)


def test_the_points_of_two_runs_make_no_correlation_however_many_they_are() -> None:
    run = (np.arange(50), np.arange(50))
    assert np.isnan(spearman_interval([run, run, ([], [])]).value)  # a run without points is none
    assert spearman_interval([run, run, run]).value == 1.0


def test_the_correlation_of_noise_includes_zero_and_too_few_points_say_nothing() -> None:
    generator = np.random.default_rng(7)
    interval = spearman_interval([tuple(generator.normal(size=(2, 10))) for _ in range(8)])
    assert interval.low < 0.0 < interval.high
    assert np.isnan(spearman_interval([([1], [3])] * 2).value)
    assert np.isnan(spearman_interval([]).value)
