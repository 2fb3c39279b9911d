"""The metrics against matrices worked out by hand, and against one another."""

import doctest

import numpy as np
import pytest

from pliant.runs.report import metrics, statistics
from pliant.runs.report.metrics import (
    area_under_curve,
    average_performance,
    backward_transfer,
    forgetting,
    forward_transfer,
    known_range,
    learning_curve,
    normalise,
    plasticity_gap,
    repeated_task_plasticity,
    repeats,
    zero_shot_transfer,
)

#         task 0  1    2      Rows: untrained, after task 0, after 1, after 2.
BY_HAND = [
    [0.1, 0.2, 0.0],
    [0.9, 0.4, 0.1],
    [0.7, 0.8, 0.3],
    [0.5, 0.9, 1.0],
]


def test_the_metrics_of_a_matrix_are_those_worked_out_by_hand() -> None:
    assert average_performance(BY_HAND) == pytest.approx((0.5 + 0.9 + 1.0) / 3)
    assert forgetting(BY_HAND) == pytest.approx(((0.9 - 0.5) + (0.8 - 0.9) + 0.0) / 3)
    assert backward_transfer(BY_HAND) == pytest.approx(((0.5 - 0.9) + (0.9 - 0.8)) / 2)
    assert zero_shot_transfer(BY_HAND) == pytest.approx(((0.4 - 0.2) + (0.3 - 0.0)) / 2)


def test_a_metric_is_the_published_loop_over_tasks() -> None:
    """GEM's and Continual World's sums, written as in the papers with tasks counted from 1."""
    generator = np.random.default_rng(0)
    for tasks in (2, 5, 20):
        matrix = generator.normal(size=(tasks + 1, tasks))

        def on(after: int, task: int, matrix=matrix) -> float:  # the papers' R[i, j], and r_j for i = 0
            return matrix[after, task - 1]

        n = tasks
        bwt = sum(on(n, i) - on(i, i) for i in range(1, n)) / (n - 1)
        fwt = sum(on(i - 1, i) - on(0, i) for i in range(2, n + 1)) / (n - 1)
        lost = sum(on(i, i) - on(n, i) for i in range(1, n + 1)) / n
        assert backward_transfer(matrix) == pytest.approx(bwt)
        assert zero_shot_transfer(matrix) == pytest.approx(fwt)
        assert forgetting(matrix) == pytest.approx(lost)


def test_backward_transfer_is_forgetting_of_the_other_sign_without_the_last_task() -> None:
    matrix = np.random.default_rng(1).normal(size=(7, 6))
    assert backward_transfer(matrix) == pytest.approx(-6 / 5 * forgetting(matrix))


def test_an_agent_that_keeps_everything_forgets_nothing() -> None:
    kept = np.tril(np.ones((4, 3)), k=-1)  # 0 until learned, 1 ever after
    assert forgetting(kept) == backward_transfer(kept) == 0.0
    assert average_performance(kept) == 1.0


def test_what_was_not_evaluated_makes_only_the_metrics_that_need_it_unknown() -> None:
    matrix = np.array(BY_HAND)
    matrix[2, 0] = np.nan  # needed by none
    assert np.isfinite([average_performance(matrix), forgetting(matrix), zero_shot_transfer(matrix)]).all()
    matrix[3, 0] = np.nan
    assert np.isnan([average_performance(matrix), forgetting(matrix), backward_transfer(matrix)]).all()
    assert np.isfinite(zero_shot_transfer(matrix))


def test_a_single_task_has_no_transfer() -> None:
    assert np.isnan([backward_transfer([[0.0], [1.0]]), zero_shot_transfer([[0.0], [1.0]])]).all()
    assert forgetting([[0.0], [1.0]]) == 0.0


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), np.zeros(3), np.zeros((2, 3))])
def test_a_matrix_without_the_untrained_row_is_refused(matrix) -> None:
    with pytest.raises(ValueError, match=r"expected \[N \+ 1, N\]"):
        forgetting(matrix)


def test_forward_transfer_is_the_share_of_the_room_above_the_fresh_agent() -> None:
    assert forward_transfer([0.5, 0.25, 1.0], [0.5, 0.5, 0.5]) == pytest.approx([0.0, -0.5, 1.0])
    assert np.isnan(forward_transfer([0.5], [1.0]))[0]


def test_the_plasticity_gap_is_what_a_fresh_agent_has_more() -> None:
    assert plasticity_gap([100.0, 60.0, 80.0], [100.0, 150.0, 70.0]).tolist() == [0.0, 90.0, -10.0]


def test_repeated_task_plasticity_is_the_share_lost_and_never_negative() -> None:
    assert repeated_task_plasticity([0.8, 0.5, 0.5], [0.2, 0.5, 0.9]) == pytest.approx([0.75, 0.0, 0.0])
    assert np.isnan(repeated_task_plasticity([0.0], [0.5]))[0]


def test_every_return_of_a_task_is_held_against_its_first_time() -> None:
    assert repeats(["a", "b", "a", "c", "b", "a"]) == [(0, 2), (1, 4), (0, 5)]
    assert repeats(["a", "b"]) == []


def test_the_curve_is_the_mean_of_each_span_and_its_area_their_mean() -> None:
    steps, returns = [110, 120, 160, 200, 201, 90], [1.0, 3.0, 10.0, 20.0, 99.0, 99.0]
    curve = learning_curve(steps, returns, 100, 200, bins=4)  # (100, 125], (125, 150], (150, 175], (175, 200]
    assert curve.tolist() == [2.0, 2.0, 10.0, 20.0]
    assert area_under_curve(curve) == 8.5


def test_spans_before_the_first_episode_take_its_return_and_no_episode_is_unknown() -> None:
    assert learning_curve([90], [7.0], 0, 100, bins=4).tolist() == [7.0] * 4
    assert np.isnan(learning_curve([], [], 0, 100)).all()
    assert np.isnan(learning_curve([500], [1.0], 0, 100)).all()


@pytest.mark.parametrize(
    ("env", "bounds"),
    [
        ("CartPole-v1", (0.0, 500.0)),
        ("Acrobot-v1", (-500.0, 0.0)),
        ("MiniGrid-DoorKey-6x6-v0", (0.0, 1.0)),
        ("Ant-v5", None),
    ],
)
def test_ranges_are_known_by_id(env: str, bounds: tuple[float, float] | None) -> None:
    assert known_range(env) == bounds
    if bounds:
        assert normalise(bounds, bounds).tolist() == [0.0, 1.0]


def test_pendulum_cannot_be_worse_than_its_bound() -> None:
    worst = -200 * (np.pi**2 + 0.1 * 8.0**2 + 0.001 * 2.0**2)
    assert metrics.RANGES["Pendulum-v1"][0] <= worst < metrics.RANGES["Pendulum-v1"][0] + 0.01


def test_a_range_does_not_outlive_a_change_of_the_reward() -> None:
    assert known_range("CartPole-v1", shifts=["reward-scale"]) is None
    assert known_range("CartPole-v1", shifts=["observation-offset"]) is not None
    assert known_range("CartPole-v1", kwargs={"sutton_barto_reward": True}) is None


@pytest.mark.parametrize("module", [metrics, statistics], ids=["metrics", "statistics"])
def test_the_examples_of_the_docstrings_hold(module) -> None:
    assert doctest.testmod(module).failed == 0
