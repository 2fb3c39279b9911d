"""A snapshot holds what was measured, leaves no trace and survives its own failures."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from pliant.diagnostics import Snapshot, SnapshotSettings, errors, take_snapshot
from pliant.diagnostics.batches import sample_count, split, take
from pliant.diagnostics.objectives import joinable, objective_operator
from pliant.diagnostics.operators import dense


def test_parts_are_measured_once_and_the_total_is_their_union(tiny_agent, tiny_batch):
    agent = tiny_agent()
    snapshot = take_snapshot(agent, tiny_batch, label="init", strict=True)
    assert set(snapshot.spectra) == {"actor", "critic", "total"}
    whole = torch.linalg.eigvalsh(dense(objective_operator(agent.objectives()["total"], tiny_batch)))
    assert np.sort(snapshot.spectra["total"].nodes[0]) == pytest.approx(whole.numpy(), abs=1e-12)
    assert (
        snapshot.spectra["total"].pieces
        == snapshot.spectra["actor"].pieces + snapshot.spectra["critic"].pieces
    )


def test_a_total_over_shared_parameters_is_measured_itself(tiny_agent):
    objectives = tiny_agent().objectives()
    assert joinable(objectives) == {"total": ("actor", "critic")}
    actor = objectives["actor"]
    shared = dataclasses.replace(
        objectives["critic"], parameters=objectives["critic"].parameters | actor.parameters
    )
    assert joinable(objectives | {"critic": shared}) == {}
    assert joinable({"q": actor}) == {}


def test_gauss_newton_spectra_carry_their_name_and_are_positive(tiny_agent, tiny_batch):
    settings = SnapshotSettings(operators=("hessian", "ggn"))
    snapshot = take_snapshot(tiny_agent(), tiny_batch, settings, strict=True)
    parts = {"actor", "critic", "total"}
    assert set(snapshot.spectra) == parts | {f"{part}-ggn" for part in parts}
    assert snapshot.spectra["total-ggn"].nodes.min() > -1e-13
    assert snapshot.spectra["total"].nodes.min() < -1e-3


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_micro_batches_change_nothing(tiny_agent, tiny_batch, operator):
    objective = tiny_agent().objectives()["actor"]
    whole = dense(objective_operator(objective, tiny_batch, operator))
    parts = dense(objective_operator(objective, tiny_batch, operator, micro_batch=7))
    assert torch.allclose(whole, parts, rtol=0, atol=1e-14)


def test_ranks_that_precision_cannot_resolve_are_named_with_their_floor(tiny_agent, tiny_batch):
    settings = SnapshotSettings(epsilons=(1e-30, 0.01), relative_epsilons=(1e-30, 0.1))
    snapshot = take_snapshot(tiny_agent(), tiny_batch, settings, strict=True)
    floors, scalars = snapshot.below_floor(), snapshot.scalars()
    parts = ("actor", "critic", "total")
    assert set(floors) == {
        f"spectrum/{p}/{kind}_rank_1e-30" for p in parts for kind in ("epsilon", "relative")
    }
    assert not set(floors) & set(scalars)
    spectrum = snapshot.spectra["actor"]
    assert floors["spectrum/actor/epsilon_rank_1e-30"] == spectrum.floor
    assert floors["spectrum/actor/relative_rank_1e-30"] == spectrum.floor / spectrum.norm


def test_scalars_carry_areas_parts_and_brackets(tiny_agent, tiny_batch):
    settings = SnapshotSettings(
        method="lanczos", probes=2, depth=4, epsilons=(0.01,), relative_epsilons=(0.1,)
    )
    scalars = take_snapshot(tiny_agent(), tiny_batch, settings, strict=True).scalars()
    assert all(tag.split("/")[0] in {"plasticity", "spectrum"} for tag in scalars)
    for quantity in ("epsilon_rank_0.01", "relative_rank_0.1", "trace", "largest", "smallest"):
        tag = f"spectrum/critic/{quantity}"
        assert scalars[f"{tag}_low"] <= scalars[tag] <= scalars[f"{tag}_high"]
    assert 1 <= scalars["plasticity/actor/0/effective_rank"] <= 6
    assert scalars["plasticity/critic/weight_norm"] > 0


def test_an_epsilon_that_float32_cannot_resolve_has_no_scalar(tiny_agent, tiny_batch):
    agent = tiny_agent()
    agent.policy.float()
    batch = tiny_batch._replace(
        observations=tiny_batch.observations.float(), targets=tiny_batch.targets.float()
    )
    snapshot = take_snapshot(agent, batch, SnapshotSettings(epsilons=(1e-9, 1e-2)), strict=True)
    assert "spectrum/actor/epsilon_rank_0.01" in snapshot.scalars()
    assert "spectrum/actor/epsilon_rank_1e-09" not in snapshot.scalars()


def test_weight_change_is_the_distance_from_the_reference(tiny_agent, tiny_batch):
    agent = tiny_agent()
    reference = {n: {k: p.detach().clone() for k, p in ps.items()} for n, ps in agent.networks().items()}
    with torch.no_grad():
        next(agent.policy["actor"].parameters())[0, 0] += 0.25
    values = take_snapshot(agent, tiny_batch, SnapshotSettings(operators=()), reference=reference).values
    assert values["plasticity/actor/weight_change"] == pytest.approx(0.25)
    assert values["plasticity/critic/weight_change"] == 0.0


def test_a_snapshot_leaves_parameters_modes_gradients_and_randomness_alone(
    tiny_agent, tiny_batch, unchanged_randomness
):
    agent = tiny_agent(dropout=0.5)
    agent.policy["critic"].eval()
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    modes = [module.training for module in agent.policy.modules()]
    first = take_snapshot(agent, tiny_batch, strict=True)
    assert all(torch.equal(value, before[name]) for name, value in agent.policy.state_dict().items())
    assert [module.training for module in agent.policy.modules()] == modes
    assert all(p.grad is None for p in agent.policy.parameters())
    # Dropout is off while measuring, so the same snapshot twice is the same.
    assert first.scalars() == take_snapshot(agent, tiny_batch, strict=True).scalars()


def test_what_fails_is_recorded_and_the_rest_is_measured(tiny_agent, tiny_batch):
    agent = tiny_agent()
    with torch.no_grad():
        agent.policy["actor"][3].bias.fill_(float("nan"))
    snapshot = take_snapshot(agent, tiny_batch)
    assert "NotFinite: the loss is nan" in snapshot.failures["spectrum/actor"]
    assert "spectrum/total" in snapshot.failures
    assert set(snapshot.spectra) == {"critic"}
    assert snapshot.features
    with pytest.raises(errors.NotFinite):
        take_snapshot(agent, tiny_batch, strict=True)


def test_features_that_are_not_finite_are_named_and_the_others_measured(tiny_agent, tiny_batch):
    agent = tiny_agent()
    with torch.no_grad():
        agent.policy["critic"][0].weight.fill_(float("nan"))
    snapshot = take_snapshot(agent, tiny_batch, SnapshotSettings(operators=()))
    assert list(snapshot.features) == ["actor/0"]
    assert snapshot.failures["features"].startswith("NotFinite: the features of critic/0 hold NaN")


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_what_is_read_from_slopes_is_there_at_every_scale_of_the_loss(tiny_agent, tiny_batch, scale):
    settings = SnapshotSettings(operators=(), minibatch_size=2, learning_rate=0.1, updates=10)
    batch = tiny_batch._replace(coefficient=0.5 * scale)
    values = take_snapshot(tiny_agent(), batch, settings, strict=True).values
    whole = take_snapshot(tiny_agent(), tiny_batch, settings, strict=True).values
    for name in ("actor", "critic"):
        strength = f"plasticity/{name}/optimization_strength"
        assert values[strength] == pytest.approx(scale * whole[strength])
        required = f"switch/{name}/trainability/required"
        assert values[required] == pytest.approx(scale * whole[required], rel=1e-6)


def test_an_empty_batch_is_named(tiny_agent, tiny_batch):
    with pytest.raises(errors.EmptyBatch, match="gather at least one"):
        take_snapshot(tiny_agent(), take(tiny_batch, slice(0, 0)))


def test_a_batch_of_another_policy_is_named(tiny_agent, tiny_batch):
    agent = tiny_agent()
    agent.ratios = lambda batch: torch.tensor([1.0, 1.0 + 3e-4])
    with pytest.raises(
        errors.RatioNotOne, match=r"max \|ratio - 1\| = 0.0003 .* gather afresh, or set unclipped=True"
    ):
        take_snapshot(agent, tiny_batch, strict=True)
    take_snapshot(agent, tiny_batch, SnapshotSettings(unclipped=True), strict=True)
    agent.ratios = lambda batch: torch.tensor([1.0, float("nan")])
    assert "RatioNotOne" in take_snapshot(agent, tiny_batch).failures["objectives"]


def test_a_saved_snapshot_comes_back_whole(tmp_path, tiny_agent, tiny_batch):
    settings = SnapshotSettings(operators=("hessian", "ggn"), method="lanczos", probes=2, depth=3)
    snapshot = take_snapshot(tiny_agent(), tiny_batch, settings, label="init")
    snapshot.arrays["covariance"] = np.eye(3)
    snapshot.about["task"] = 4
    again = Snapshot.load(snapshot.save(tmp_path / "snapshot.npz"))
    assert again.scalars() == snapshot.scalars()
    assert (again.label, again.settings, again.samples) == ("init", settings, 40)
    assert (again.about, again.failures, again.seconds) == (snapshot.about, {}, snapshot.seconds)
    assert again.arrays.keys() == snapshot.arrays.keys()
    assert all((again.arrays[name] == snapshot.arrays[name]).all() for name in snapshot.arrays)
    with np.load(tmp_path / "snapshot.npz", allow_pickle=False) as file:
        assert json.loads(str(file["snapshot"]))["scalars"] == pytest.approx(snapshot.scalars())
        assert file["spectrum/actor/weights"].sum(1) == pytest.approx(np.ones(2))


def test_a_snapshot_file_of_another_kind_or_version_is_refused(tmp_path, tiny_agent, tiny_batch):
    np.savez(tmp_path / "other.npz", x=np.ones(2))
    with pytest.raises(errors.UnreadableFile, match="not a snapshot file"):
        Snapshot.load(tmp_path / "other.npz")
    path = take_snapshot(tiny_agent(), tiny_batch, SnapshotSettings(operators=())).save(tmp_path / "a.npz")
    with np.load(path) as file:
        record = json.loads(str(file["snapshot"])) | {"schema": 7}
    np.savez(path, snapshot=np.array(json.dumps(record)))
    with pytest.raises(errors.UnreadableFile, match="format 7"):
        Snapshot.load(path)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"operators": ("fisher",)}, errors.UnknownOption, "operators='fisher'"),
        ({"method": "power"}, errors.UnknownOption, "method='power'"),
        ({"depth": 0}, errors.InvalidSetting, "depth=0"),
        ({"epsilons": (0.1, -1.0)}, errors.InvalidSetting, "must be positive"),
    ],
)
def test_settings_without_meaning_are_named(settings, error, text):
    with pytest.raises(error, match=text):
        SnapshotSettings(**settings)


def test_an_unknown_part_is_named(tiny_agent, tiny_batch):
    with pytest.raises(
        errors.UnknownOption, match="parts='value' is unknown; choose one of 'actor', 'critic', 'total'"
    ):
        take_snapshot(tiny_agent(), tiny_batch, SnapshotSettings(parts=("value",)), strict=True)


def test_a_part_may_be_a_group_of_parameters_and_is_the_diagonal_block(tiny_agent, tiny_batch):
    agent = tiny_agent()
    parts = ("critic", "critic/critic.3", "critic/critic.0.bias", "total/actor")
    settings = SnapshotSettings(parts=parts, operators=("hessian", "ggn", "kfac", "gram"), gram_samples=40)
    # The total has no outputs here, so that its group has a Hessian only.
    snapshot = take_snapshot(agent, tiny_batch, settings, strict=True)
    whole = dense(objective_operator(agent.objectives()["critic"], tiny_batch))
    names = list(agent.objectives()["critic"].parameters)
    assert names == [f"critic.{layer}.{kind}" for layer in (0, 3) for kind in ("weight", "bias")]
    blocks = {"critic/critic.3": slice(24, 31), "critic/critic.0.bias": slice(18, 24)}
    for part, rows in blocks.items():
        expected = torch.linalg.eigvalsh(whole[rows, rows]).numpy()
        assert snapshot.spectra[part].nodes[0] == pytest.approx(expected, abs=1e-13)
        assert snapshot.spectra[f"{part}-ggn"].size == rows.stop - rows.start
        assert f"spectrum/{part}/epsilon_rank_0.01" in snapshot.scalars()
    actor = torch.linalg.eigvalsh(dense(objective_operator(agent.objectives()["actor"], tiny_batch))).numpy()
    assert snapshot.spectra["total/actor"].nodes[0] == pytest.approx(actor, abs=1e-13)
    assert "critic/critic.3-kfac" in snapshot.spectra
    assert snapshot.scalars()["plasticity/critic/critic.3/gradient_norm"] > 0


def test_groups_survive_the_file(tmp_path, tiny_agent, tiny_batch):
    settings = SnapshotSettings(parts=("critic", "critic/critic.3"))
    snapshot = take_snapshot(tiny_agent(), tiny_batch, settings, strict=True)
    assert Snapshot.load(snapshot.save(tmp_path / "a.npz")).scalars() == snapshot.scalars()


@pytest.mark.parametrize(
    ("part", "known"),
    [
        ("value/critic.3", "'actor', 'critic', 'total'"),
        ("critic/critic.1", "'critic/critic', 'critic/critic.0', 'critic/critic.3'"),
        ("critic/actor", "'critic/critic', 'critic/critic.0', 'critic/critic.3'"),
        ("critic/critic.0.wei", "'critic/critic', 'critic/critic.0', 'critic/critic.3'"),
    ],
)
def test_an_unknown_group_is_named_with_the_known_ones(tiny_agent, tiny_batch, part, known):
    settings = SnapshotSettings(parts=(part,))
    with pytest.raises(errors.UnknownOption, match=f"parts='{part}' is unknown; choose one of {known}$"):
        take_snapshot(tiny_agent(), tiny_batch, settings, strict=True)
    snapshot = take_snapshot(tiny_agent(), tiny_batch, settings)
    assert "UnknownOption" in snapshot.failures["objectives"]
    assert not snapshot.spectra


def test_batches_are_taken_apart_with_their_dicts_and_numbers(tiny_batch):
    batch = tiny_batch._replace(
        observations={"image": torch.arange(10.0)[:, None], "pose": torch.ones(10, 2)},
        targets=torch.zeros(10),
    )
    assert sample_count(batch) == 10
    parts, shares = split(batch, 4)
    assert [sample_count(part) for part in parts] == [4, 4, 2]
    assert shares == [0.4, 0.4, 0.2]
    assert parts[2].observations["image"].tolist() == [[8.0], [9.0]]
    assert parts[0].coefficient == 0.5
    assert type(parts[0]) is type(tiny_batch)
    with pytest.raises(errors.EmptyBatch, match=r"have \[10, 40\] samples"):
        sample_count((torch.zeros(10), torch.zeros(40)))
    with pytest.raises(errors.EmptyBatch):
        sample_count((1.0, None))


def test_every_instrument_can_be_asked_for_at_once(tiny_agent, tiny_batch):
    settings = SnapshotSettings(
        operators=("hessian", "ggn", "kfac", "gram"),
        learning_rate=0.1,
        updates=1000,
        gram_samples=20,
        minibatches=6,
        compat="lop-jax",
        epsilons=(0.1,),
    )
    snapshot = take_snapshot(tiny_agent(), tiny_batch, settings, strict=True)
    layers = {f"{part}-kfac.{part}.{layer}" for part in ("actor", "critic") for layer in (0, 3)}
    layers |= {f"{part}-gram.{part}.{layer}" for part in ("actor", "critic") for layer in (0, 3)}
    whole = {
        f"{part}{end}" for part in ("actor", "critic", "total") for end in ("", "-ggn", "-kfac", "-gram")
    }
    assert set(snapshot.spectra) == layers | whole
    scalars = snapshot.scalars()
    assert 0 < scalars["spectrum/critic-kfac/distance"] < 0.5
    assert 1 <= scalars["spectrum/actor-gram/ntk_effective_rank"] <= 40
    assert scalars["switch/critic/trainability/verdict"] in (0.0, 0.5, 1.0)
    assert scalars["plasticity/critic/optimization_readiness"] > 0
    assert scalars["plasticity/actor/gradient_norm"] > 0
    assert scalars["plasticity/actor/inactive/actor.0.weight"] == 0.0
    assert scalars["spectrum/actor/lop-jax/epsilon_rank_0.1"] > 0
    covariance = snapshot.arrays["actor/gradient_covariance"]
    assert covariance.shape == (6, 6)
    assert np.diag(covariance) == pytest.approx(np.ones(6))


def test_gram_and_gauss_newton_agree_when_they_see_the_same_samples(tiny_agent, tiny_batch):
    settings = SnapshotSettings(operators=("ggn", "gram"), gram_samples=40)
    snapshot = take_snapshot(tiny_agent(), tiny_batch, settings, strict=True)
    for part in ("actor", "critic", "total"):
        pair = [np.sort(snapshot.spectra[f"{part}-{operator}"].nodes[0]) for operator in ("ggn", "gram")]
        assert pair[0] == pytest.approx(pair[1], abs=1e-13)


def test_the_fingerprint_tells_parameters_apart(tiny_agent, tiny_batch):
    off = SnapshotSettings(operators=(), minibatches=0)

    def mark(agent):
        return take_snapshot(agent, tiny_batch, off).about["parameters"]

    agent = tiny_agent()
    assert mark(agent) == mark(tiny_agent())
    assert mark(agent) != mark(tiny_agent(seed=1))
    with torch.no_grad():
        next(agent.policy.parameters())[0, 0] += 1e-12
    assert mark(agent) != mark(tiny_agent())
