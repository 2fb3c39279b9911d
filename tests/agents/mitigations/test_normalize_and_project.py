"""NaP: norms stay, and so does the function."""

import pytest
import torch
from torch import nn

from pliant.agents import DQN, PPO, Classifier, InvalidSetting, NormalizeAndProject, Update, WeightClipping
from pliant.agents.wiring import trace

ALL = pytest.mark.parametrize("algorithm", [PPO, DQN, Classifier])
BOTH = pytest.mark.parametrize("policy", ["mlp", "cnn"])


def norms(agent):
    """|(W, b)| of every hidden layer."""
    return torch.stack(
        [nn.utils.get_total_norm(layer.parameters()) for layer in trace(agent).hidden.values()]
    )


@BOTH
@ALL
def test_projecting_restores_the_norms_and_leaves_the_function(algorithm, policy, make, observe, outputs):
    mitigation = NormalizeAndProject(affine="free")
    agent = make(algorithm, [mitigation], policy=policy)
    start = norms(agent)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in trace(agent).hidden.values():
            for p in layer.parameters():
                p += 0.5 + torch.randn(p.shape, generator=generator)
    moved, before = norms(agent), outputs(agent, observe(policy))
    assert (moved > 1.2 * start).all()
    mitigation.project()
    torch.testing.assert_close(norms(agent), start, rtol=1e-4, atol=0)
    torch.testing.assert_close(outputs(agent, observe(policy)), before, rtol=1e-2, atol=2e-3)
    assert mitigation.values()["norm_growth"] == pytest.approx((moved / start).mean().item(), rel=1e-4)


@ALL
def test_norms_stay_while_training_and_grow_without(algorithm, make):
    held = make(algorithm, [NormalizeAndProject()], learning_rate=0.03)
    start = norms(held)
    held.learn(200)
    torch.testing.assert_close(norms(held), start, rtol=1e-4, atol=0)
    free = make(algorithm, [NormalizeAndProject(every=10**9, affine="free")], learning_rate=0.03)
    assert (norms(free.learn(200)) > 1.02 * start).any()


@ALL
def test_scale_and_shift_are_projected_together_if_asked(algorithm, make, observe):
    def norm_of_affine(affine):
        mitigation = NormalizeAndProject(affine=affine)
        agent = make(algorithm, [mitigation])
        layers = [m for m in trace(agent).norms]
        with torch.no_grad():
            for norm in layers:
                norm.weight *= 3
                norm.bias += 1
        mitigation.after_update(agent, Update(0, observe()))
        ratios = [(norm.weight / norm.bias).mean().item() for norm in layers]
        return [nn.utils.get_total_norm(norm.parameters()).item() ** 2 for norm in layers], ratios

    squares, ratios = norm_of_affine("project")
    assert squares == pytest.approx([8] * len(squares), rel=1e-5)  # 8 units, scales of 1, shifts of 0
    assert ratios == pytest.approx([3.0] * len(squares))
    assert norm_of_affine("free")[0] == pytest.approx([8 * (9 + 1)] * len(squares))
    assert not list(trace(make(algorithm, [NormalizeAndProject(affine="none")])).norms[0].parameters())


@ALL
def test_the_last_layers_are_free(algorithm, make):
    mitigation = NormalizeAndProject()
    agent = make(algorithm, [mitigation])
    heads = trace(agent).heads
    with torch.no_grad():
        for head in heads:
            head.weight.fill_(5.0)
    mitigation.project()
    assert all((head.weight == 5).all() for head in heads)


@ALL
def test_it_acts_every_so_many_updates(algorithm, make, observe):
    mitigation = NormalizeAndProject(every=3)
    agent = make(algorithm, [mitigation])
    for count in range(2):
        mitigation.after_update(agent, Update(count, observe()))
        assert mitigation.values() == {}
    mitigation.after_update(agent, Update(2, observe()))
    assert mitigation.values() == pytest.approx({"norm_growth": 1.0})


def test_a_layer_of_zeros_is_left_alone(make):
    mitigation = NormalizeAndProject()
    agent = make(DQN, [mitigation])
    layer = trace(agent).hidden["q_net.q_net.0"]
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
    mitigation.project()
    assert (layer.weight == 0).all()


def test_the_norms_come_from_construction_also_after_loading(make, tmp_path):
    agent = make(PPO, [NormalizeAndProject()], seed=4)
    agent.learn(64)
    agent.save(tmp_path / "agent")
    (loaded,) = PPO.load(tmp_path / "agent").mitigations
    assert loaded.state() == agent.mitigations[0].state()


def test_linear_networks_are_refused(make):
    with pytest.raises(InvalidSetting, match="needs a hidden layer to normalise"):
        make(Classifier, [NormalizeAndProject()], policy_kwargs={"net_arch": []})


def test_clipping_besides_is_refused(make):
    with pytest.raises(InvalidSetting, match="NormalizeAndProject cannot work with WeightClipping: the proj"):
        make(DQN, [WeightClipping(), NormalizeAndProject()])


@pytest.mark.parametrize(
    ("settings", "message"), [({"every": 0}, "every"), ({"affine": "yes"}, "Known: project")]
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InvalidSetting, match=message):
        NormalizeAndProject(**settings)
