"""What varies from task to task of a stream, as arrays."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.envs.variations import input_permutation, noisy_labels, random_labels, rotated, subset

IMAGES = np.random.default_rng(0).random((3, 2, 9, 12), dtype=np.float32)


@given(st.integers(1, 80), st.integers(0, 2**32))
def test_a_permutation_carried_out_in_part_grows_by_exchanges_of_two_entries(size, seed):
    orders = [input_permutation(size, seed, i / size) for i in range(size + 1)]
    assert np.array_equal(orders[0], np.arange(size))
    assert np.array_equal(orders[-1], np.random.default_rng(seed).permutation(size))
    for before, after in pairwise(orders):
        assert sorted(after) == list(range(size))
        assert (before != after).sum() in (0, 2)


@pytest.mark.parametrize("degrees", [33.0, -71.5, 10.0, 180.0, 450.0])
def test_a_rotated_slope_is_the_slope_in_the_other_direction(degrees):
    y, x = np.mgrid[-15:16, -15:16].astype(np.float32)
    turned = rotated(np.stack([x, y])[None], degrees)[0]
    inside = y**2 + x**2 <= 14**2  # what comes from within the image, where bilinear means exact
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    assert np.abs(turned[0] - (cosine * x - sine * y))[inside].max() < 1e-4
    assert np.abs(turned[1] - (cosine * y + sine * x))[inside].max() < 1e-4


def test_what_was_not_in_the_image_is_zero():
    turned = rotated(np.ones((1, 1, 9, 9), np.float32), 45.0)[0, 0]
    assert turned[0, 0] == turned[0, -1] == turned[-1, 0] == 0
    assert turned[4, 4] == 1


@pytest.mark.parametrize("turns", [1, 2, 3, -1])
def test_right_angles_move_the_pixels_of_a_square_counter_clockwise(turns):
    square = IMAGES[..., :9]
    assert np.array_equal(rotated(square, 90.0 * turns), np.rot90(square, turns, (2, 3)))


def test_random_labels_are_uniform_and_independent_of_anything_but_the_seed():
    labels = random_labels(10_000, 4, seed=1)
    assert np.array_equal(labels, random_labels(10_000, 4, seed=1))
    assert not np.array_equal(labels, random_labels(10_000, 4, seed=2))
    assert np.abs(np.bincount(labels) - 2500).max() < 5 * (10_000 * 3 / 16) ** 0.5


def test_noise_gives_exactly_its_share_of_labels_another_class():
    labels = np.arange(10_000) % 5
    noisy = noisy_labels(labels, 5, 0.3, seed=0)
    wrong = noisy != labels
    assert wrong.sum() == 3000
    assert set(noisy) == set(range(5))
    shifts = np.bincount((noisy - labels)[wrong] % 5, minlength=5)  # each of the four others as likely
    assert np.abs(shifts[1:] - 750).max() < 5 * (3000 * 3 / 16) ** 0.5
    less = noisy_labels(labels, 5, 0.1, seed=0)
    assert np.array_equal(less[less != labels], noisy[less != labels])
    assert np.array_equal(noisy_labels(labels, 5, 0.0, seed=0), labels)


def test_a_smaller_subset_is_part_of_a_larger_one():
    small, large = subset(100, 10, seed=3), subset(100, 40, seed=3)
    assert len(set(large)) == 40
    assert set(small) < set(large)
    assert np.array_equal(large, np.sort(large))
    assert set(subset(100, 10, seed=4)) != set(small)
