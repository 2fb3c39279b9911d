"""L2-Init: zero where it began, with the gradient of the formula, and an anchor that is never lost."""

import pytest
import torch

from pliant.agents import DQN, PPO, FullReset, InvalidSetting, L2Init, LayerReset

BOTH = pytest.mark.parametrize("algorithm", [PPO, DQN])


def trained(agent):
    return [p for network in agent.networks().values() for p in network.values()]


@BOTH
def test_the_penalty_and_its_gradient_are_zero_at_the_start(algorithm, make, observe):
    mitigation = L2Init(0.5)
    agent = make(algorithm, [mitigation])
    penalty = mitigation.penalty(agent, observe())
    assert penalty.item() == 0
    assert all((g == 0).all() for g in torch.autograd.grad(penalty, trained(agent)))


@BOTH
def test_the_gradient_is_strength_times_the_way_from_the_start(algorithm, make, observe):
    mitigation = L2Init(0.5)
    agent = make(algorithm, [mitigation])
    ways = [torch.randn(p.shape) for p in trained(agent)]
    with torch.no_grad():
        for p, way in zip(trained(agent), ways, strict=True):
            p += way
    penalty = mitigation.penalty(agent, observe())
    squares = sum(way.double().square().sum().item() for way in ways)
    assert penalty.item() == pytest.approx(0.25 * squares, rel=1e-5)
    assert mitigation.values() == pytest.approx({"l2_init": 0.5 * squares}, rel=1e-5)
    for gradient, way in zip(torch.autograd.grad(penalty, trained(agent)), ways, strict=True):
        torch.testing.assert_close(gradient, 0.5 * way, rtol=1e-4, atol=1e-5)


@BOTH
def test_a_strong_pull_keeps_the_parameters_at_their_start(algorithm, make, parameters):
    free, held = make(algorithm), make(algorithm, [L2Init(1e4)])
    start = parameters(held)
    assert all(torch.equal(start[name], p) for name, p in parameters(free).items())

    def moved(agent):
        return sum((p - start[name]).abs().sum().item() for name, p in parameters(agent).items())

    assert moved(held.learn(200)) < 0.5 * moved(free.learn(200))


@BOTH
def test_the_start_comes_back_with_a_saved_agent_and_not_the_saved_parameters(algorithm, make, tmp_path):
    mitigation = L2Init(1e-3)
    agent = make(algorithm, [mitigation], seed=3)
    start = mitigation.tensors()
    agent.learn(64)
    agent.save(tmp_path / "agent")
    (loaded,) = algorithm.load(tmp_path / "agent").mitigations
    assert loaded.tensors().keys() == start.keys()
    assert all(torch.equal(loaded.tensors()[name], w) for name, w in start.items())
    assert loaded.values() == pytest.approx(mitigation.values())


@BOTH
def test_the_start_that_is_put_back_is_the_one_given(algorithm, make, observe):
    """Not where the agent happens to be: a resumed one is built with other parameters than it began with."""
    mitigation = L2Init(2.0)
    agent = make(algorithm, [mitigation])
    mitigation.load_tensors({name: w + 3.0 for name, w in mitigation.tensors().items()})
    count = sum(p.numel() for p in trained(agent))
    assert mitigation.penalty(agent, observe()).item() == pytest.approx(0.5 * 2.0 * 9.0 * count, rel=1e-4)


@BOTH
def test_redrawn_parameters_are_pulled_back_to_where_they_are_now(algorithm, make, parameters, observe):
    mitigation, whole = L2Init(1e-3), L2Init(1e-3)
    agent = make(algorithm, [mitigation, LayerReset()], learning_rate=1e-2)
    start = mitigation.tensors()
    agent.start_task(0)
    agent.learn(64)
    agent.start_task(1)
    new = {name for name, w in mitigation.tensors().items() if w is not start[name]}
    assert all(torch.equal(mitigation.tensors()[name], parameters(agent)[name]) for name in new)
    heads = {"action_net", "value_net"} if algorithm is PPO else {"q_net.q_net.4"}
    assert new == {f"{head}.{kind}" for head in heads for kind in ("weight", "bias")}
    assert mitigation.penalty(agent, observe()) > 0

    agent = make(algorithm, [whole, FullReset()], learning_rate=1e-2).learn(64)
    agent.start_task(1)
    assert whole.penalty(agent, observe()) == 0


def test_dqns_target_network_is_not_pulled(make):
    assert not any("target" in name for name in make(DQN, [L2Init()]).mitigations[0].tensors())


def test_a_negative_strength_is_refused():
    with pytest.raises(InvalidSetting, match="L2Init needs a finite strength of at least 0, not -1"):
        L2Init(-1)
