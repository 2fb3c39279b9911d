"""Streams: an honest environment over a data set, its samples, what varies, and what is refused."""

import inspect
import pickle
import warnings
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from pliant import PPO
from pliant.envs import (
    SHIFTS,
    EnvError,
    InvalidShift,
    InvalidTask,
    MissingData,
    Samples,
    SequenceSpec,
    Stream,
    Task,
    TaskSequence,
    make_env,
)
from pliant.envs.data import load_data
from pliant.envs.streams import Variation
from pliant.envs.variations import input_permutation, rotated

# One of each variation, and a few together.
VARIATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "test split": {"split": "test"},
    "permuted": {"permute_inputs": 3},
    "permuted in part": {"permute_inputs": 3, "permuted_share": 0.3},
    "rotated": {"rotation": 30.0},
    "shuffled labels": {"shuffle_labels": 3},
    "random labels": {"random_labels": 3, "samples": 40},
    "noisy labels": {"label_noise": 0.5, "noise_seed": 3},
    "a subset": {"samples": 40, "sample_seed": 3},
    "a pair": {"classes": [7, 2], "relabel": True},
    "classes so far": {"classes": [7, 2, 5]},
    "image": {"shape": "image"},
    "normalised": {"normalise": True},
    "accuracy": {"reward": "accuracy"},
    "much": {
        "classes": [1, 4, 6],
        "relabel": True,
        "samples": 90,
        "permute_inputs": 1,
        "rotation": -90.0,
        "shuffle_labels": 2,
        "label_noise": 0.1,
        "shape": "image",
        "normalise": True,
        "reward": "accuracy",
    },
}
every_variation = pytest.mark.parametrize("kwargs", VARIATIONS.values(), ids=VARIATIONS)


def make(shifts: Any = (), **kwargs: Any) -> gymnasium.Env:
    return make_env(Task(env="pliant/Stream-v0", kwargs=kwargs, shifts=shifts, length=1))


def samples(shifts: Any = (), **kwargs: Any) -> Samples:
    return make(shifts, **kwargs).get_wrapper_attr("samples")


def one_pass(
    env: gymnasium.Env, answer: Callable[[Any], int], seed: int = 0
) -> tuple[np.ndarray, list, list]:
    """Observations, rewards and labels of an episode."""
    observation, info = env.reset(seed=seed)
    assert info == {}  # nothing that would give the answer away
    seen, rewards, labels, over = [], [], [], False
    while not over:
        seen.append(observation)
        observation, reward, over, truncated, info = env.step(answer(observation))
        assert not truncated
        rewards.append(reward)
        labels.append(info["label"])
    return np.array(seen), rewards, labels


@every_variation
def test_gymnasium_checks_a_stream_without_complaint(kwargs):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*value is -?infinity")  # normalised inputs have no bounds
        check_env(make(**kwargs).unwrapped, skip_render_check=True)


@every_variation
def test_an_episode_shows_every_sample_once_and_its_label_is_rewarded(kwargs):
    env = make(**kwargs)
    data = env.unwrapped.samples
    assert isinstance(data, Samples)
    known = {one.tobytes(): int(label) for one, label in zip(data.inputs, data.labels, strict=True)}
    seen, rewards, labels = one_pass(env, lambda observation: known[observation.tobytes()])
    assert len(seen) == len(data.labels) == env.unwrapped.max_steps
    order = sorted(range(len(seen)), key=lambda i: seen[i].tobytes())
    listed = sorted(range(len(seen)), key=lambda i: data.inputs[i].tobytes())
    assert np.array_equal(seen[order], data.inputs[listed])
    if len(known) == len(seen):  # no two inputs are the same: the answer is always right
        worth = 1 / len(seen) if kwargs.get("reward") == "accuracy" else 1
        assert rewards == [worth] * len(seen)
    assert sorted(labels) == sorted(data.labels)


@every_variation
def test_samples_lie_in_the_spaces_and_cannot_be_changed(kwargs):
    env = make(**kwargs).unwrapped
    data = env.samples
    assert data.inputs.dtype == np.float32
    assert data.labels.dtype == np.int64
    assert all(env.observation_space.contains(one) for one in data.inputs)
    assert set(data.labels) <= set(data.classes)
    assert all(env.action_space.contains(label) for label in data.classes)
    for array in (data.inputs, data.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@every_variation
def test_the_order_depends_on_the_seed_of_the_reset_alone(kwargs):
    first, second = make(**kwargs), make(**kwargs)
    passes = [one_pass(env, lambda _: 0, seed) for env, seed in ((first, 1), (second, 1), (first, 2))]
    assert np.array_equal(passes[0][0], passes[1][0])
    assert not np.array_equal(passes[0][0], passes[2][0])
    seeded = make_env(Task(env="pliant/Stream-v0", kwargs=kwargs, length=1), seed=1)
    assert np.array_equal(seeded.reset()[0], passes[0][0][0])


@every_variation
def test_a_stream_is_rebuilt_from_its_spec_and_from_a_pickle(kwargs):
    env = make(**kwargs)
    others = [gymnasium.make(EnvSpec.from_json(env.spec.to_json())), pickle.loads(pickle.dumps(env))]
    for other in others:
        assert other.observation_space == env.observation_space
        assert np.array_equal(one_pass(other, lambda _: 0)[0], one_pass(env, lambda _: 0)[0])


def test_without_variation_inputs_and_labels_are_the_data_set_s():
    data = load_data("digits", "train")
    plain = samples()
    assert np.array_equal(plain.inputs, data.take(np.arange(1545)).reshape(1545, 64))
    assert np.array_equal(plain.labels, data.labels)
    assert plain.classes.tolist() == list(range(10))
    assert np.array_equal(samples(shape="image").inputs.reshape(1545, 64), plain.inputs)


def test_permuting_the_inputs_is_the_shift_of_that_name():
    shift = {"type": "observation-permutation", "seed": 5}
    assert np.array_equal(samples(permute_inputs=5).inputs, samples([shift]).inputs)
    order = input_permutation(64, 5, 0.25)
    assert np.array_equal(samples(permute_inputs=5, permuted_share=0.25).inputs, samples().inputs[:, order])


def test_rotation_turns_images_before_they_are_permuted():
    plain = samples(shape="image").inputs
    turned = rotated(plain, 40.0).reshape(-1, 64)
    assert np.array_equal(samples(rotation=40.0).inputs, turned)
    order = input_permutation(64, 1)
    assert np.array_equal(samples(rotation=40.0, permute_inputs=1).inputs, turned[:, order])


def test_shuffled_labels_are_a_permutation_of_the_classes():
    true, shuffled = samples().labels, samples(shuffle_labels=4).labels
    mapping = dict(zip(true, shuffled, strict=True))
    assert all(mapping[label] == other for label, other in zip(true, shuffled, strict=True))
    assert sorted(mapping.values()) == list(range(10))
    assert mapping != {i: i for i in range(10)}
    assert not np.array_equal(shuffled, samples(shuffle_labels=5).labels)


def test_random_labels_belong_to_the_samples_and_not_to_what_they_show():
    one, same, other = (samples(random_labels=seed).labels for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    agreement = [(one == other).mean(), (one == samples().labels).mean()]
    assert agreement == pytest.approx([0.1, 0.1], abs=5 * (0.09 / 1545) ** 0.5)


def test_noise_spoils_labels_of_the_training_split_only():
    assert (samples(label_noise=0.2).labels != samples().labels).sum() == 309  # a fifth of 1,545
    assert np.array_equal(samples(split="test", label_noise=0.2).labels, samples(split="test").labels)


def test_the_test_split_varies_as_the_training_split_does():
    variation = {"permute_inputs": 2, "shuffle_labels": 3, "classes": [4, 9], "relabel": True, "samples": 50}
    train, test = samples(**variation), samples(split="test", **variation)
    assert (len(train.labels), len(test.labels)) == (50, 50)
    true = samples(split="test", classes=[4, 9])
    swapped = np.random.default_rng(3).permutation(2)
    assert np.array_equal(test.labels, swapped[(true.labels == 9).astype(int)])
    assert np.array_equal(test.inputs, true.inputs[:, input_permutation(64, 2)])
    assert len(samples(split="test", test_samples=20).labels) == 20


def test_classes_keep_their_labels_unless_they_are_given_new_ones():
    kept, given = samples(classes=[7, 2]), samples(classes=[7, 2], relabel=True)
    assert set(kept.labels) == {2, 7}
    assert np.array_equal(given.labels, (kept.labels == 2).astype(int))
    assert np.array_equal(kept.inputs, given.inputs)
    assert (kept.classes.tolist(), given.classes.tolist()) == ([2, 7], [0, 1])
    assert make(classes=[7, 2]).action_space.n == 10
    assert make(classes=[7, 2], relabel=True).action_space.n == 2


def test_a_smaller_sample_is_part_of_a_larger_one_and_the_same_in_every_task():
    small, large = (samples(samples=size).inputs for size in (20, 60))
    assert {one.tobytes() for one in small} < {one.tobytes() for one in large}
    assert np.array_equal(samples(samples=20, random_labels=1).inputs, small)
    assert not np.array_equal(samples(samples=20, sample_seed=1).inputs, small)


@pytest.mark.parametrize("shape", ["flat", "image"])
def test_normalised_inputs_have_mean_zero_and_variance_one_on_the_training_split(shape, tmp_path):
    (tmp_path / "x").mkdir()
    rng = np.random.default_rng(0)
    for i in range(2):
        array = rng.integers([[[10]], [[50]], [[0]]], [[[200]], [[60]], [[1]]], size=(70, 3, 4, 4))
        np.save(tmp_path / "x" / f"{i}.npy", array.astype(np.uint8))
    kwargs = {"data": "folder:x", "data_dir": str(tmp_path), "normalise": True, "shape": shape}
    inputs = samples(**kwargs).inputs.reshape(-1, 3, 16).astype(np.float64)
    assert inputs.mean((0, 2)) == pytest.approx([0, 0, 0], abs=1e-5)
    assert inputs.std((0, 2)) == pytest.approx([1, 1, 0], abs=1e-5)  # a constant channel stays constant
    test = samples(**kwargs, split="test").inputs.reshape(-1, 3, 16)
    assert abs(test.mean((0, 2))[0]) > 1e-4  # by the training split's mean, not by its own


def test_a_return_is_the_accuracy_if_that_is_asked_for():
    _, rewards, labels = one_pass(make(reward="accuracy"), lambda _: 3)
    assert sum(rewards) == pytest.approx(np.mean(np.array(labels) == 3))


def test_a_step_after_the_pass_is_refused():
    env = make(samples=2).unwrapped
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(0)
    env.reset(seed=0)
    env.step(0)
    assert env.step(0)[2]
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(0)


REFUSED = {
    "an unknown argument": (
        {"permutation": 3},
        "unknown key 'permutation'. Did you mean 'rotation' or 'permute_inputs'",
    ),
    "a wrong type": ({"samples": 1.5}, "samples: input should be a valid integer, got 1.5"),
    "an unknown split": ({"split": "valid"}, "split: input should be 'train' or 'test', got 'valid'"),
    "a negative seed": ({"permute_inputs": -1}, "permute_inputs: input should be greater than or equal to 0"),
    "a share above one": (
        {"label_noise": 1.5},
        "label_noise: input should be less than or equal to 1, got 1.5",
    ),
    "a rotation without end": ({"rotation": float("inf")}, "rotation: input should be a finite number"),
    "no samples": ({"samples": 0}, "samples: input should be greater than 0, got 0"),
    "too many samples": (
        {"samples": 1546},
        "samples: the train split of digits has 1,545 samples of the task's 10",
    ),
    "too many tests": (
        {"split": "test", "test_samples": 253},
        "test_samples: the test split of digits has 252",
    ),
    "a class that is not there": ({"classes": [3, 10]}, "digits has the classes 0 to 9, not 10"),
    "no classes": ({"classes": []}, "classes: list should have at least 1 item"),
    "a class twice": ({"classes": [3, 3]}, "classes must be different from one another, got [3, 3]"),
    "positions without classes": (
        {"relabel": True},
        "relabel gives labels by their position in classes: name",
    ),
    "a share of nothing": (
        {"permuted_share": 0.5},
        "permuted_share is that of a permutation: give permute_inputs",
    ),
    "tests of what is random": (
        {"random_labels": 0, "split": "test"},
        "random_labels have no test split: what is",
    ),
    "shuffling what is random": (
        {"random_labels": 0, "shuffle_labels": 1},
        "random_labels cannot be shuffled",
    ),
    "noise in what is random": (
        {"random_labels": 0, "label_noise": 0.1},
        "random_labels have nothing for label_n",
    ),
    "noise in one class": ({"classes": [3], "label_noise": 0.1}, "label_noise needs a second class"),
    "an unknown data set": ({"data": "digit"}, "unknown data set 'digit'. Did you mean 'digits'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_the_reason(case):
    kwargs, message = REFUSED[case]
    with pytest.raises(InvalidTask) as refusal:
        make(**kwargs)
    assert str(refusal.value).startswith("pliant/Stream-v0: ")
    assert message in str(refusal.value)
    with pytest.raises(EnvError, match=r"tasks\[0\]: pliant/Stream-v0: "):
        TaskSequence([Task(env="pliant/Stream-v0", kwargs=kwargs, length=1)])


SEED = st.integers(-1, 3)
SHARE = st.floats(-0.1, 1.1) | st.just(float("nan"))
# What can be, and a little of what cannot.
ANYTHING: dict[str, st.SearchStrategy[Any]] = {
    "data": st.sampled_from(["digits", "digits", "digits", "digit", "mnist", "folder:x", 3]),
    "split": st.sampled_from(["train", "test", "both"]),
    "classes": st.lists(st.integers(-1, 10), max_size=4) | st.just([3, 8]),
    "relabel": st.booleans(),
    "samples": st.sampled_from([1, 40, 1545, 1546, 0, 2.5]),
    "test_samples": st.sampled_from([1, 40, 252, 253]),
    "sample_seed": SEED,
    "permute_inputs": SEED,
    "permuted_share": SHARE,
    "rotation": st.floats(-400, 400) | st.just(float("inf")),
    "shuffle_labels": SEED,
    "random_labels": SEED,
    "label_noise": SHARE,
    "noise_seed": SEED,
    "shape": st.sampled_from(["flat", "image", "square"]),
    "normalise": st.booleans(),
    "reward": st.sampled_from(["one", "accuracy", 1]),
    "data_dir": st.sampled_from(["nowhere", 3]),
}


@given(st.fixed_dictionaries({}, optional=ANYTHING))
@settings(max_examples=200, deadline=None)
def test_whatever_the_arguments_a_stream_is_sound_or_refused(kwargs):
    assert ANYTHING.keys() == Variation.model_fields.keys()
    with suppress(InvalidTask, MissingData):
        env = Stream(**kwargs)
        data = env.samples
        assert len(data.inputs) == len(data.labels) == env.max_steps > 0
        assert env.observation_space.contains(data.inputs[0])
        assert set(data.labels) <= set(data.classes) <= set(range(env.action_space.n))


@pytest.mark.parametrize(("features", "square"), [(6, False), (9, True)])
def test_features_that_are_no_image_have_no_rotation_and_no_shape(features, square, tmp_path):
    (tmp_path / "x").mkdir()
    np.save(tmp_path / "x" / "0.npy", np.zeros((7, features), np.uint8))
    kwargs = {"data": "folder:x", "data_dir": str(tmp_path)}
    assert make(**kwargs).observation_space.shape == (features,)
    for more in ({"shape": "image"}, {"rotation": 90.0}):
        if square:
            assert make(**kwargs, **more).observation_space.shape in [(1, 3, 3), (9,)]
        else:
            with pytest.raises(InvalidTask, match="folder:x has 6 features and no images"):
                make(**kwargs, **more)


def test_every_argument_is_documented():
    source = inspect.getsource(Variation)
    for name in Variation.model_fields:
        assert source.partition(f"    {name}: ")[2].splitlines()[1].startswith('    """'), name


def test_rules_draw_the_tasks_of_a_stream():
    spec = SequenceSpec(
        env="pliant/Stream-v0",
        kwargs={
            "classes": {"rule": "window", "of": 10, "size": 2},
            "relabel": True,
            "permute_inputs": {"rule": "seed"},
            "rotation": {"rule": "arange", "step": 5.0},
        },
        length={"rule": "arange", "start": 100, "step": 50},
        count=5,
    )
    tasks = spec.build(seed=0)
    assert tasks.action_space == gymnasium.spaces.Discrete(2)
    assert [task.kwargs["rotation"] for task in tasks] == [0, 5, 10, 15, 20]
    assert [task.length for task in tasks] == [100, 150, 200, 250, 300]
    assert len({task.kwargs["permute_inputs"] for task in tasks}) == 5
    assert sorted(chain(*(task.kwargs["classes"] for task in tasks))) == list(range(10))


def test_tasks_share_the_data_and_making_one_costs_no_copy():
    first, second = (make(permute_inputs=seed).unwrapped for seed in (1, 2))
    assert first._data is second._data
    assert "samples" not in vars(first)
    first.reset(seed=0)
    assert "samples" not in vars(first)  # steps work sample by sample: 64 side by side need no 64 copies


PURE = {
    "observation-permutation": {"seed": 2},
    "observation-offset": {"std": 0.5, "seed": 1},
    "observation-scale": {"std": 0.5, "seed": 1},
}
IMPURE = {
    "action-delay": {"delay": 1},
    "action-remap": {"permutation": [1, 0, *range(2, 10)]},
    "layout": {"seeds": [1]},
    "observation-noise": {"std": 0.1},
    "reward-scale": {"scale": 2.0},
    "sticky-action": {"probability": 0.1},
}


def test_every_shift_either_applies_to_samples_or_is_refused():
    assert PURE.keys() | IMPURE.keys() | {"physics"} == SHIFTS.keys()  # a stream has no physics
    assert not PURE.keys() & IMPURE.keys()


@pytest.mark.parametrize("shape", ["flat", "image"])
@pytest.mark.parametrize("name", PURE)
def test_a_shift_of_observations_shifts_the_samples_as_it_does_each_step(name, shape):
    shifts = [{"type": name, **PURE[name]}, {"type": "observation-offset", "std": 1.0, "seed": 9}]
    env = make(shifts, samples=30, shape=shape)
    data = env.get_wrapper_attr("samples")
    seen, _, labels = one_pass(env, lambda _: 0)
    shown = sorted((one.tobytes(), label) for one, label in zip(seen, labels, strict=True))
    assert shown == sorted(
        (one.tobytes(), label) for one, label in zip(data.inputs, data.labels, strict=True)
    )
    assert all(env.observation_space.contains(one) for one in data.inputs)
    assert data.inputs.dtype == np.float32
    assert not data.inputs.flags.writeable


@pytest.mark.parametrize("name", IMPURE)
def test_any_other_shift_has_no_samples_and_says_why(name):
    shifts = [{"type": name, **IMPURE[name]}]
    for inside in ([], [{"type": "observation-offset", "std": 1.0}]):
        with pytest.raises(InvalidShift, match="more than one and the same change of every observation"):
            samples(shifts + inside)


@pytest.mark.parametrize("name", ["observation-offset", "observation-scale"])
def test_a_shift_that_still_grows_has_no_samples_and_one_that_has_grown_has(name):
    ramped = {"type": name, "std": 0.5, "ramp": 100}
    with pytest.raises(InvalidShift, match=r"grows over 100 environment steps, .* many short tasks"):
        samples([ramped])
    grown = {**ramped, "elapsed": 100}
    assert np.array_equal(samples([grown]).inputs, samples([{"type": name, "std": 0.5}]).inputs)


def test_an_environment_without_samples_is_told_from_a_stream():
    env = make_env(Task(env="CartPole-v1", shifts=[{"type": "observation-offset", "std": 1.0}], length=1))
    assert not hasattr(env, "samples")
    with pytest.raises(AttributeError, match="samples"):
        env.get_wrapper_attr("samples")


def test_vectorised_environments_give_the_samples_through_their_wrappers():
    env = DummyVecEnv([lambda: Monitor(make([{"type": "observation-offset", "std": 1.0}], samples=5))])
    [data] = env.get_attr("samples")
    assert np.array_equal(
        data.inputs, samples([{"type": "observation-offset", "std": 1.0}], samples=5).inputs
    )


def test_ppo_learns_on_a_stream_as_on_any_environment():
    task = Task(env="pliant/Stream-v0", kwargs={"classes": [0, 1], "relabel": True}, length=1)
    agent = PPO("MlpPolicy", make_env(task, seed=0), n_steps=256, gamma=0.0, learning_rate=3e-3, seed=0)
    agent.learn(2048)
    data = samples(split="test", **task.kwargs)
    actions, _ = agent.predict(data.inputs, deterministic=True)
    assert (actions == data.labels).mean() > 0.95


def test_the_class_is_what_gymnasium_makes():
    assert isinstance(make().unwrapped, Stream)
