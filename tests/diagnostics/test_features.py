"""Feature statistics on matrices whose ranks are known."""

import math

import pytest
import torch

from pliant.diagnostics import measure_features
from pliant.diagnostics.errors import EmptyBatch, InvalidSetting
from pliant.diagnostics.features import (
    dead,
    distance,
    dormant,
    effective_rank,
    norm,
    singular_values,
    srank,
    stable_rank,
    statistics,
)


def with_singular_values(sigma, samples=50, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn((samples, len(sigma)), generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn((width, len(sigma)), generator=generator, dtype=torch.float64)).Q
    return left @ torch.diag(torch.tensor(sigma, dtype=torch.float64)) @ right.T


@pytest.mark.parametrize("samples", [5, 50])
def test_singular_values_are_found_also_where_they_are_tiny(samples):
    sigma = singular_values(with_singular_values([3.0, 1.0, 1e-9], samples))
    assert sigma[:3].tolist() == pytest.approx([3.0, 1.0, 1e-9], rel=1e-6)
    assert sigma[3:].max() < 1e-14


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_equal_singular_values_have_all_three_ranks_at_their_number_at_any_scale(rank, scale):
    sigma = singular_values(scale * with_singular_values([1.0] * rank))
    assert effective_rank(sigma) == pytest.approx(rank, abs=1e-9)
    assert stable_rank(sigma) == pytest.approx(rank, abs=1e-9)
    assert srank(sigma) == rank


def test_effective_rank_is_the_exponential_of_the_entropy():
    sigma = torch.tensor([4.0, 2.0, 2.0], dtype=torch.float64)  # p = 1/2, 1/4, 1/4: entropy 3/2 log 2
    assert effective_rank(sigma) == pytest.approx(2**1.5)


def test_srank_counts_until_one_percent_is_left():
    assert srank(torch.tensor([98.0, 1.5, 0.5], dtype=torch.float64)) == 2
    assert srank(torch.tensor([98.0, 1.5, 0.5], dtype=torch.float64), delta=0.03) == 1
    assert srank(torch.tensor([98.0, 0.5, 1.5], dtype=torch.float64), delta=0.001) == 3


def test_srank_of_everything_is_the_number_of_singular_values():
    sigma = torch.full((49,), 0.1, dtype=torch.float64)  # whose sums round to less than the whole
    assert srank(sigma, delta=0.0) == 49


def test_a_layer_of_zeros_has_rank_zero_and_only_dead_units():
    found = statistics(torch.zeros(10, 4))
    assert (found.effective_rank, found.srank, found.stable_rank) == (0.0, 0.0, 0.0)
    assert (found.dead, found.dormant, found.active, found.norm) == (1.0, 1.0, 0.0, 0.0)


def test_dead_dormant_and_saturated_units_are_counted():
    features = torch.tensor([[0.0, 1.0, 0.001, -1.0], [0.0, 1.0, 0.0, 0.995]])
    assert dead(features).tolist() == [True, False, False, False]
    assert dormant(features).tolist() == [True, False, True, False]
    found = statistics(features)
    assert found.dead == 0.25
    assert found.dormant == 0.5
    assert found.saturated == 0.5
    assert found.active == 5 / 8
    assert found.width == 4


def test_dormancy_compares_with_the_mean_over_the_layer():
    features = torch.tensor([[1.0, 1.0, 0.05]])
    assert dormant(features, share=0.1).tolist() == [False, False, True]
    assert dormant(features, share=0.07).tolist() == [False, False, False]


def test_norms_and_distances_are_euclidean_over_all_entries():
    first = {"a": torch.tensor([3.0]), "b": torch.tensor([[0.0, 4.0]])}
    assert norm(first) == 5.0
    assert norm({}) == 0.0
    assert distance(first, {"a": torch.tensor([3.0]), "b": torch.tensor([[0.0, 1.0]])}) == 3.0
    with pytest.raises(InvalidSetting, match="other names"):
        distance(first, {"a": torch.tensor([3.0])})


def test_feature_norm_is_the_root_mean_square_length_of_a_sample():
    assert statistics(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).norm == pytest.approx(5 / math.sqrt(2))


def test_layers_are_measured_by_name():
    found = measure_features({"actor/0": torch.eye(3), "critic/0": torch.ones(4, 2)})
    assert found["actor/0"]["effective_rank"] == pytest.approx(3.0)
    assert found["critic/0"]["effective_rank"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("features", "error", "text"),
    [(torch.zeros(3), InvalidSetting, r"shape \(3,\)"), (torch.zeros(0, 3), EmptyBatch, "no sample")],
)
def test_features_of_another_shape_are_named(features, error, text):
    with pytest.raises(error, match=text):
        statistics(features)
