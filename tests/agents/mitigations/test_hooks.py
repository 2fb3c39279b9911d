"""What every mitigation can count on: its hooks, their order, and that what it gathers is saved."""

import math

import pytest
import torch

from pliant.agents import (
    AGENTS,
    DQN,
    L2,
    PPO,
    Classifier,
    EffectiveRank,
    FullReset,
    LayerReset,
    Mitigation,
    MixtureOfExperts,
    PlasticityInjection,
    Update,
)

SMALL = {
    PPO: {"n_steps": 32, "batch_size": 8, "n_epochs": 2},
    DQN: {"buffer_size": 60, "learning_starts": 10, "target_update_interval": 20},
    Classifier: {"batch_size": 8, "updates_per_rollout": 4},
}


def build(algorithm, env, mitigations=(), **kwargs):
    return algorithm(
        "MlpPolicy", env, mitigations=mitigations, seed=0, device="cpu", **{**SMALL[algorithm], **kwargs}
    )


def parameters(agent):
    return [p.detach().clone() for network in agent.networks().values() for p in network.values()]


def distance(a, b):
    return math.sqrt(sum((x - y).square().sum().item() for x, y in zip(a, b, strict=True)))


@pytest.mark.parametrize("algorithm", AGENTS.values())
def test_mitigations_combine(algorithm, toy):
    agent = build(algorithm, toy(), [EffectiveRank(1e-3), L2(1e-3)])
    agent.learn(64)
    assert all(mitigation.values() for mitigation in agent.mitigations)


@pytest.mark.parametrize("algorithm", AGENTS.values())
def test_hooks_are_called_in_order_around_every_update(algorithm, toy):
    class Spy(Mitigation):
        def __init__(self):
            self.calls = []

        def build(self, policy_kwargs, agent_name):
            self.calls.append(f"build {agent_name}")
            return {**policy_kwargs, "net_arch": [5]}

        def attach(self, agent):
            self.calls.append("attach")

        def on_task_start(self, agent, task):
            self.calls.append(f"task {task}")

        def before_update(self, agent, update):
            assert update.count == agent.gradient_updates
            self.calls.append("before")
            self.old = parameters(agent)

        def penalty(self, agent, observations):
            assert len(observations) > 0
            self.calls.append("penalty")

        def after_update(self, agent, update):
            assert update.count == agent.gradient_updates - 1
            assert distance(self.old, parameters(agent)) > 0
            self.calls.append("after")

    spy = Spy()
    agent = build(algorithm, toy(), [spy])
    assert agent.policy_kwargs == {}
    assert agent.policy.net_arch == [5]
    agent.start_task(4)
    agent.learn(32)
    assert spy.calls[:3] == [f"build {agent.name}", "attach", "task 4"]
    assert spy.calls[3:] == ["before", "penalty", "after"] * agent.gradient_updates
    assert agent.gradient_updates > 0


class Told(Mitigation):
    """Keeps what it is told of."""

    def on_redraw(self, agent, parameters):
        self.names = sorted(parameters)
        own = dict(agent.policy.named_parameters())
        assert all(own[name] is parameter for name, parameter in parameters.items())


@pytest.mark.parametrize(
    ("mitigations", "new_head", "modules"),
    [
        ([FullReset()], "keep", ["body.0", "head"]),
        ([LayerReset()], "keep", ["head"]),
        ([PlasticityInjection()], "keep", ["head.learner.0", "head.learner.2"]),
        ([], "zero", ["head"]),
        ([], "redraw", ["head"]),
        ([MixtureOfExperts(2)], "zero", ["head.experts.0.2", "head.experts.1.2"]),
    ],
)
def test_mitigations_are_told_which_parameters_have_been_drawn_anew(mitigations, new_head, modules, toy):
    told = Told()
    agent = build(Classifier, toy(), [told, *mitigations], new_head=new_head, policy_kwargs={"net_arch": [4]})
    agent.start_task(1)
    assert told.names == [f"{module}.{kind}" for module in modules for kind in ("bias", "weight")]


@pytest.mark.parametrize("algorithm", AGENTS.values())
def test_a_penalty_is_descended_but_is_no_part_of_the_loss(algorithm, toy, memory_logger):
    class Pull(Mitigation):
        def penalty(self, agent, observations):
            return 1e6 * sum(p.sum() for network in agent.networks().values() for p in network.values())

    agent = build(algorithm, toy(), [Pull()])
    agent.set_logger(memory_logger()[0])
    before = parameters(agent)
    agent.learn(40)
    assert all((new < old).all() for new, old in zip(parameters(agent), before, strict=True))
    assert abs(agent.logger.name_to_value["train/loss"]) < 100


class Anchor(Mitigation):
    """Pulls the parameters to a running mean of theirs: a state of numbers and tensors."""

    _mean: torch.Tensor | None = None
    _count = 0

    def attach(self, agent):
        self._mean = torch.cat([p.flatten() for p in parameters(agent)])
        self._count = 0

    def after_update(self, agent, update):
        flat = torch.nn.utils.parameters_to_vector(p for n in agent.networks().values() for p in n.values())
        self._mean.lerp_(flat.detach(), 0.1)
        self._count += 1

    def penalty(self, agent, observations):
        flat = torch.nn.utils.parameters_to_vector(p for n in agent.networks().values() for p in n.values())
        return (flat - self._mean).square().sum()

    def state(self):
        return {"count": self._count}

    def load_state(self, state):
        self._count = state["count"]

    def tensors(self):
        return {"mean": self._mean}

    def load_tensors(self, tensors):
        self._mean = tensors["mean"]


@pytest.mark.parametrize("algorithm", AGENTS.values())
def test_what_a_mitigation_has_gathered_is_saved_with_the_agent(algorithm, toy, tmp_path):
    agent = build(algorithm, toy(), [Anchor()])
    agent.learn(48)
    agent.save(tmp_path / "agent")
    (loaded,) = algorithm.load(tmp_path / "agent", env=toy()).mitigations
    assert torch.equal(loaded._mean, agent.mitigations[0]._mean)
    assert loaded._count == agent.mitigations[0]._count > 0
    assert loaded._kept is None


def test_an_update_without_a_rollout_has_none():
    assert Update(0, torch.zeros(1)).rollout is None
