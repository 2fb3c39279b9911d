"""The optimisers: equal to torch's own where torch has them, exact when saved, known to L2 and to units."""

import copy
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from pliant.agents import DQN, L2, OPTIMIZERS, PPO, InvalidSetting, ReDo
from pliant.agents.optimizers import Kron, MuonAdam, decays_decoupled
from pliant.agents.units import forget, renew
from pliant.agents.wiring import trace

needs_kron = pytest.mark.skipif(find_spec("kron_torch") is None, reason="kron-torch is for Linux only")
EVERY = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=needs_kron) if n == "kron" else n for n in OPTIMIZERS]
)
SMALL = {
    PPO: {"n_steps": 32, "batch_size": 8, "n_epochs": 2},
    DQN: {"buffer_size": 60, "learning_starts": 10, "target_update_interval": 20},
}
PICTURE = spaces.Box(0, 10, (5, 5, 2), np.uint8)
CNN = {"features_extractor_class": "small-cnn", "features_extractor_kwargs": {"features_dim": 8}}


def build(algorithm, env, name, mitigations=(), **kwargs):
    policy_kwargs = {"net_arch": [8], "optimizer_class": OPTIMIZERS[name], **kwargs}
    return algorithm(
        "MlpPolicy",
        env,
        mitigations=mitigations,
        policy_kwargs=policy_kwargs,
        seed=0,
        device="cpu",
        **SMALL[algorithm],
    )


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 3, 2), nn.Flatten(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 2))


def problem():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, 2, 4, generator=generator)
    return x, x[:, :, 0] * 2


def descend(net, optimizer, updates):
    x, y = problem()
    for _ in range(updates):
        loss = (net(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


@EVERY
def test_every_optimiser_descends(name):
    net = network()
    optimizer = OPTIMIZERS[name](net.parameters(), lr=0.05 if name == "sgd" else 0.01)
    start = descend(net, optimizer, 1)
    assert descend(net, optimizer, 300) < 0.2 * start


@EVERY
def test_a_saved_optimiser_goes_on_as_if_it_had_not_been(name):
    net = network()
    optimizer = OPTIMIZERS[name](net.parameters(), lr=0.01)
    descend(net, optimizer, 30)
    twin = copy.deepcopy(net)
    resumed = OPTIMIZERS[name](twin.parameters(), lr=0.5)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, opt in ((net, optimizer), (twin, resumed)):
        torch.manual_seed(7)
        descend(one, opt, 30)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


@EVERY
def test_its_state_is_tensors_and_its_options_are_plain(name):
    net = network()
    optimizer = OPTIMIZERS[name](net.parameters(), lr=0.01)
    descend(net, optimizer, 3)
    saved = optimizer.state_dict()
    assert all(isinstance(slot, torch.Tensor) for slots in saved["state"].values() for slot in slots.values())
    plain = (int, float, bool, str, type(None), tuple, list)
    assert all(isinstance(value, plain) for group in saved["param_groups"] for value in group.values())


@pytest.mark.parametrize("algorithm", [PPO, DQN])
@EVERY
def test_agents_train_and_are_saved_with_every_optimiser(name, algorithm, toy, tmp_path):
    agent = build(algorithm, toy(), name)
    before = [p.clone() for p in agent.policy.parameters()]
    agent.learn(48)
    assert any((a != b).any() for a, b in zip(before, agent.policy.parameters(), strict=True))
    agent.save(tmp_path / "agent")
    loaded = algorithm.load(tmp_path / "agent", env=toy())
    for a, b in zip(agent.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    loaded.learn(48)


# Muon and AdamW ---------------------------------------------------------------------------------------------


def test_matrices_move_as_with_torchs_muon_and_the_rest_as_with_adamw():
    net, twin = network(), network()
    options = {"lr": 0.02, "weight_decay": 0.1}
    ours = MuonAdam(net.parameters(), betas=(0.8, 0.9), eps=1e-6, momentum=0.9, **options)
    matrices = [p for p in twin.parameters() if p.ndim == 2]
    others = [p for p in twin.parameters() if p.ndim != 2]
    muon = torch.optim.Muon(matrices, momentum=0.9, adjust_lr_fn="match_rms_adamw", **options)
    adam = torch.optim.AdamW(others, betas=(0.8, 0.9), eps=1e-6, **options)
    x, y = problem()
    for _ in range(10):
        for one, optimizers in ((net, [ours]), (twin, [muon, adam])):
            loss = (one(x) - y).square().mean()
            one.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert len(matrices) == 2
    assert len(others) == 4


def test_the_learning_rates_of_both_follow_a_schedule(toy):
    agent = build(PPO, toy(), "muon")
    assert len(agent.policy.optimizer.param_groups) == 2
    agent.lr_schedule = lambda progress_remaining: 0.125
    agent.learn(32)
    assert [group["lr"] for group in agent.policy.optimizer.param_groups] == [0.125, 0.125]


# Weight decay -----------------------------------------------------------------------------------------------


@EVERY
def test_l2_decays_the_way_it_was_told_or_says_why_not(name, toy):
    optimizer = OPTIMIZERS[name](network().parameters(), lr=0.1)
    if decays_decoupled(optimizer):
        with pytest.raises(InvalidSetting, match=r"decays weights decoupled .* give L2 decoupled = true"):
            build(PPO, toy(), name, [L2(0.5)])
    else:
        build(PPO, toy(), name, [L2(0.5)])
    if name == "sgd":
        return
    agent = build(PPO, toy(), name, [L2(0.5, decoupled=True)])
    for group in agent.policy.optimizer.param_groups:
        group["lr"] = 0.1
    before = {n: p.detach().clone() for n, p in agent.policy.named_parameters()}
    for p in agent.policy.parameters():
        p.grad = torch.zeros_like(p)
    agent.policy.optimizer.step()
    for n, p in agent.policy.named_parameters():
        decayed = p.ndim > 1 or name != "kron"
        torch.testing.assert_close(p.detach(), (0.95 if decayed else 1.0) * before[n], rtol=1e-5, atol=1e-6)


def test_which_optimisers_decay_decoupled():
    parameters = [nn.Parameter(torch.zeros(2, 2))]
    kinds = {name: kind for name, kind in OPTIMIZERS.items() if name != "kron"}
    found = {name for name, kind in kinds.items() if decays_decoupled(kind(parameters, lr=0.1))}
    assert found == {"adamw", "muon"}


# Units ------------------------------------------------------------------------------------------------------


@EVERY
def test_the_moments_of_renewed_units_are_cleared_and_no_factor_is(name, toy):
    options = {"optimizer_kwargs": {"momentum": 0.9}} if name == "sgd" else {}
    agent = build(DQN, toy(PICTURE), name, [ReDo()], **CNN, **options)
    agent.learn(20)
    state = agent.policy.optimizer.state
    layer = trace(agent).layers["q/1"]  # a convolution that leads into another
    before = {k: v.clone() for k, v in state[layer.incoming.weight].items()}
    renew(layer, torch.tensor([4]), *agent.fresh_units(layer.incoming, 1), agent.policy.optimizer)
    cleared = 0
    for key, slot in state[layer.incoming.weight].items():
        if key.startswith("factor_") or not slot.ndim:
            assert torch.equal(slot, before[key])
            continue
        rows, old = slot.reshape(32, -1), before[key].reshape(32, -1)
        assert (rows[4] == 0).all()
        assert torch.equal(rows[[0, 31]], old[[0, 31]])
        cleared += 1
    assert cleared >= 1
    agent.learn(8)
    assert all(p.isfinite().all() for p in agent.policy.parameters())


# Kron -------------------------------------------------------------------------------------------------------


@needs_kron
def test_kron_moves_as_its_package_does():
    from kron_torch.kron import Kron as Theirs

    net, twin = network(), network()
    ours, theirs = Kron(net.parameters(), lr=0.01, b1=0.8), Theirs(twin.parameters(), lr=0.01, b1=0.8)

    class Never:
        def random(self):
            return 1.0  # when to balance is drawn otherwise: leave it out

    theirs.rng = Never()
    for one, optimizer in ((net, ours), (twin, theirs)):
        torch.manual_seed(3)
        with torch.compiler.set_stance("force_eager"):
            descend(one, optimizer, 20)
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@needs_kron
def test_krons_preconditioner_waits_as_many_updates_as_its_probability_says():
    net = network()
    optimizer = Kron(net.parameters(), lr=0.01)
    (group,) = optimizer.param_groups
    descend(net, optimizer, 1)
    group["steps"] = 2000  # a probability of exp(-1.5): the first count that is at least exp(1.5) = 4.48 is 5
    waited = []
    for _ in range(7):
        descend(net, optimizer, 1)
        waited.append(group["since_update"])
    assert waited == [1, 2, 3, 4, 0, 1, 2]
    assert group["steps"] == 2007


@needs_kron
def test_kron_that_has_forgotten_everything_is_a_new_one():
    net = network()
    optimizer = Kron(net.parameters(), lr=0.01)
    descend(net, optimizer, 3)
    optimizer.param_groups[0] |= {"steps": 3000, "since_update": 7}
    twin = copy.deepcopy(net)
    forget(optimizer, net.parameters())
    for one, own in ((net, optimizer), (twin, Kron(twin.parameters(), lr=0.01))):
        torch.manual_seed(3)
        descend(one, own, 5)
        assert (own.param_groups[0]["steps"], own.param_groups[0]["since_update"]) == (5, 0)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


@needs_kron
def test_kron_says_nothing(capsys):
    net = network()
    descend(net, Kron(net.parameters(), lr=0.01), 2)
    assert capsys.readouterr().out == ""


def test_kron_without_its_package_is_refused_with_the_remedy(monkeypatch, toy):
    monkeypatch.setitem(sys.modules, "kron_torch.kron", None)
    with pytest.raises(
        InvalidSetting, match=r"kron-torch, which is not installed: pip install 'pliant\[kron\]'"
    ):
        build(PPO, toy(), "kron")
