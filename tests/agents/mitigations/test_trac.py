"""TRAC: the numbers of the authors' code, the formula, and a reference that follows the others."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import special

from pliant.agents import (
    DQN,
    PPO,
    Classifier,
    FullReset,
    InvalidSetting,
    LayerReset,
    NonFiniteLoss,
    PlasticityInjection,
    Trac,
    WeightClipping,
)
from pliant.agents.mitigations.trac import Scale

ALL = pytest.mark.parametrize("algorithm", [PPO, DQN, Classifier])


# github.com/ComputationalRobotics/TRAC, trac.py, run on the problem below with s_prev = 0.01, in float64 and
# with scipy's erfi in place of its own approximation (off by 0.3 %): the parameters after update t, and S.
AUTHORS = {
    torch.optim.SGD: {
        0: ([1.0402329080, -1.8994177301, 0.6005822699], 0.1005822699),
        1: ([1.0475172027, -1.8812069932, 0.6175860195], 0.0600000000),
        4: ([1.3636908806, -1.0907727984, 1.3717248965], 0.1896265674),
        9: ([2.7216375747, 2.3040939368, 3.6106111572], 0.5942019254),
        29: ([3.1688907561, 3.4222268903, 3.2710112394], 0.6483398013),
        59: ([-0.3881951332, -0.4218915811, -0.9757893872], 0.2336859918),
    },
    torch.optim.Adam: {
        0: ([1.0100582270, -1.9899417730, 0.5100582270], 0.1005822699),
        1: ([1.0119991918, -1.9880003186, 0.5119993567], 0.0600000001),
        4: ([1.0901884130, -1.9097863257, 0.5901969532], 0.1804598856),
        9: ([1.8428183070, -1.1535778775, 1.3440946545], 0.8484717320),
        29: ([2.7709034895, 1.3632540408, 2.7407989149], 1.3605722857),
        34: ([1.0228523448, -1.9386160312, 0.5329976065], 0.0230767626),
    },
}


class Problem:
    """Two parameters pulled to 3 and, after 30 updates, to -1; as much of an agent as TRAC needs."""

    def __init__(self, optimiser, mitigation, **options):
        self.a = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        self.b = torch.nn.Parameter(torch.tensor([[0.5]]))
        self.policy = SimpleNamespace(optimizer=optimiser([self.a, self.b], lr=0.1, **options))
        self.gradient_updates = 0
        mitigation.attach(self)

    def networks(self):
        return {"one": {"a": self.a}, "other": {"b": self.b}}

    def update(self):
        target = 3.0 if self.gradient_updates < 30 else -1.0
        loss = (self.a - target).square().sum() + 2 * (self.b - target).square().sum()
        self.policy.optimizer.zero_grad()
        loss.backward()
        self.policy.optimizer.step()
        self.gradient_updates += 1

    @property
    def position(self):
        return [*self.a.tolist(), self.b.item()]


@pytest.mark.parametrize("optimiser", AUTHORS)
def test_it_moves_as_the_authors_code_does_where_the_scale_stays_above_0(optimiser):
    mitigation = Trac(initial=0.01)
    problem = Problem(optimiser, mitigation)
    for t in range(60):
        problem.update()
        if t in AUTHORS[optimiser]:
            position, scale = AUTHORS[optimiser][t]
            assert mitigation.values()["trac_scale"] == pytest.approx(scale, rel=1e-3, abs=1e-6), t
            assert problem.position == pytest.approx(position, rel=1e-3, abs=1e-4), t


def test_it_comes_back_where_the_authors_code_stays_for_good():
    # With Adam their scale falls below 0 six updates after the pull turns round: the parameters are back
    # where they began, and are still there after 60 updates, and after 200.
    mitigation = Trac(initial=0.01)
    problem = Problem(torch.optim.Adam, mitigation)
    for _ in range(37):
        problem.update()
    assert problem.position == [1.0, -2.0, 0.5]
    for _ in range(163):
        problem.update()
    assert problem.position == pytest.approx([-1.0, -1.0, -1.0], abs=0.1)


def test_a_run_begins_where_the_first_products_say_nothing(make):
    # Labels drawn at random: with the authors' rule S comes to 0 again and again, and nothing is learned.
    agent = make(Classifier, [Trac()], learning_rate=1e-2)
    agent.learn(4800)
    assert agent.mitigations[0].values()["trac_scale"] > 1e-2


def test_the_first_scale_has_a_closed_form():
    scale = Scale((0.9, 0.5), initial=0.3, eps=1e-8)
    first = scale.update(0.0)  # no product yet: sigma = beta 1e-8, v = 0
    assert first == pytest.approx(
        0.3 / special.erfi(math.sqrt(0.5)) * special.erfi([0.9, 0.5]).sum(), rel=1e-6
    )


def test_the_scale_follows_its_recursion():
    scale = Scale((0.9, 1.0), initial=1.0, eps=1e-8)
    products = [-0.3, 0.1, -0.7]
    for product in products:
        total = scale.update(product)
    variances, sigmas = [], []
    for beta in (0.9, 1.0):
        variances.append(sum(beta ** (2 * (2 - k)) * h**2 for k, h in enumerate(products)))
        sigmas.append(1e-8 * beta**3 - sum(beta ** (2 - k) * h for k, h in enumerate(products)))
    argument = np.array(sigmas) / np.sqrt(2 * np.array(variances))
    assert total == pytest.approx((special.erfi(argument) / special.erfi(math.sqrt(0.5))).sum(), rel=1e-5)


def test_a_scale_of_one_is_the_plain_optimiser(monkeypatch):
    monkeypatch.setattr(Scale, "update", lambda self, product: setattr(self, "total", 1.0) or 1.0)
    mitigation = Trac(eps=1e-30)
    problem, plain = (
        Problem(torch.optim.Adam, mitigation),
        Problem(torch.optim.Adam, SimpleNamespace(attach=id)),
    )
    mitigation._scale.total = 1.0
    for _ in range(10):
        problem.update()
        plain.update()
    assert problem.position == pytest.approx(plain.position, rel=1e-5)


def test_a_scale_of_zero_leads_back_to_the_start_and_keeps_the_way(monkeypatch):
    mitigation = Trac(initial=0.01)
    problem = Problem(torch.optim.SGD, mitigation)
    for _ in range(10):
        problem.update()
    way = {name: tensor.clone() for name, tensor in mitigation.tensors().items() if "way" in name}
    monkeypatch.setattr(Scale, "update", lambda self, product: setattr(self, "total", 0.0) or 0.0)
    problem.update()
    assert problem.position == [1.0, -2.0, 0.5]
    assert torch.equal(mitigation.tensors()["way/a"], way["way/a"] - 0.1 * problem.a.grad)


def test_a_scale_is_never_negative():
    scale = Scale((0.9, 0.99), initial=1.0, eps=1e-8)
    assert scale.update(-1.0) > 0
    assert scale.update(10.0) == 0.0


def test_what_others_change_moves_the_reference_and_is_not_scaled():
    mitigation = Trac(initial=0.01)
    problem, twin = Problem(torch.optim.SGD, mitigation), None
    for _ in range(3):
        problem.update()
    reference = {name: tensor.clone() for name, tensor in mitigation._reference.items()}
    with torch.no_grad():
        problem.a += torch.tensor([10.0, -20.0])
    twin = problem.a.detach().clone()
    problem.update()
    torch.testing.assert_close(mitigation._reference["a"], reference["a"] + torch.tensor([10.0, -20.0]))
    torch.testing.assert_close(mitigation._reference["b"], reference["b"])
    assert (problem.a - twin).abs().max() < 5  # not scaled by 1 / S


@ALL
def test_a_run_begins_at_rest(algorithm, make, parameters):
    agent = make(algorithm, [Trac()], learning_rate=0.1)
    start = parameters(agent)
    agent.learn(48)
    assert all((p - start[name]).abs().max() < 1e-4 for name, p in parameters(agent).items())


@ALL
def test_it_goes_on_beside_resets_and_clipping(algorithm, make, parameters):
    agent = make(algorithm, [Trac(initial=0.01), FullReset(), WeightClipping(1.0)])
    for task in range(3):
        agent.start_task(task)
        agent.learn(48, reset_num_timesteps=task == 0)
    assert all(p.isfinite().all() for p in parameters(agent).values())


@ALL
def test_a_full_reset_is_a_new_beginning(algorithm, make, parameters):
    mitigation = Trac(initial=0.01)
    agent = make(algorithm, [mitigation, FullReset()], learning_rate=0.1)
    new = mitigation.state()
    agent.start_task(0)
    agent.learn(64)
    assert mitigation.state() != new
    agent.start_task(1)
    assert mitigation.state() == new
    for name, p in parameters(agent).items():
        assert torch.equal(mitigation.tensors()[f"reference/{name}"], p)
        assert not mitigation.tensors()[f"way/{name}"].any()


HEADS = {
    "layer-reset": lambda: ([LayerReset()], "keep"),
    "injection": lambda: ([PlasticityInjection()], "keep"),
    "zero": lambda: ([], "zero"),
    "redraw": lambda: ([], "redraw"),
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_new_head_begins_where_it_is_and_the_rest_goes_on(kind, make, parameters):
    others, new_head = HEADS[kind]()
    mitigation = Trac(initial=0.01)
    agent = make(Classifier, [mitigation, *others], new_head=new_head, learning_rate=0.1)
    agent.start_task(0)
    agent.learn(64)
    before, scale = {name: t.clone() for name, t in mitigation.tensors().items()}, mitigation.state()
    agent.start_task(1)
    assert mitigation.state() == scale
    heads = {name: p for name, p in parameters(agent).items() if "head" in name}
    assert heads
    for key, tensor in mitigation.tensors().items():
        kept, name = key.split("/")
        if name not in heads:
            assert torch.equal(tensor, before[key])
        elif kept == "reference":
            assert torch.equal(tensor, heads[name])
        else:
            assert not tensor.any()
        assert kind != "zero" or name not in heads or not tensor.any()
    agent.policy.optimizer.param_groups[0]["lr"] = 0.0
    agent.learn(1, reset_num_timesteps=False)
    assert all(torch.equal(mitigation.tensors()[f"reference/{name}"], p) for name, p in heads.items())


def test_attaching_again_listens_once():
    mitigation = Trac()
    problem = Problem(torch.optim.SGD, mitigation)
    mitigation.attach(problem)
    assert len(problem.policy.optimizer._optimizer_step_post_hooks) == 1


def test_a_scale_that_overflows_is_reported_before_it_is_used(monkeypatch):
    mitigation = Trac()
    problem = Problem(torch.optim.SGD, mitigation)
    problem.update()
    position = problem.position
    monkeypatch.setattr(Scale, "update", lambda self, product: math.inf)
    with pytest.raises(NonFiniteLoss, match="the scale of Trac is not finite after 1 gradient updates"):
        problem.update()
    assert problem.position == position


@pytest.mark.parametrize("settings", [{"betas": []}, {"betas": [0.0]}, {"betas": [1.1]}, {"initial": 0.0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(InvalidSetting, match=r"Trac's (betas|initial)"):
        Trac(**settings)
