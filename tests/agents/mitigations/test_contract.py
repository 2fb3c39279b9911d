"""What every mitigation keeps to, on every agent and kind of network."""

import copy
import dataclasses
import inspect
import math
import re

import pytest
import torch

from pliant.agents import AGENTS, L2, MITIGATIONS, PPO, AgentError, InvalidSetting, Mitigation
from pliant.agents.mitigations.base import check_combination

# Every member of MITIGATIONS needs a line here: constructor arguments that make a visible difference.
SETTINGS = {
    "c-chain": {"initial": 10.0},
    "continual-backprop": {"replacement_rate": 0.05, "maturity": 3},
    "crelu": {"halve": False},
    "deep-fourier": {"halve": True},
    "effective-rank": {"step": 1e-2},
    "full-reset": {},
    "isotropy": {"ratio": 0.1},
    "l2": {"strength": 1e-1},
    "l2-init": {"strength": 1e-1},
    "layer-norm": {"affine": True},
    "layer-reset": {"last": 2},
    "mixture-of-experts": {"experts": 3, "active": 2},
    "normalize-and-project": {"every": 2},
    "parseval": {"strength": 1e-2},
    "plasticity-injection": {"tasks": (1,)},
    "redo": {"threshold": 0.5, "every": 4},
    "shrink-and-perturb": {"shrink": 0.99, "noise": 1e-3},
    "spectral": {"strength": 1e-1},
    "trac": {"initial": 1e-3},
    "weight-clipping": {"kappa": 0.5},
}

ALL = pytest.mark.parametrize("algorithm", AGENTS.values())
EVERY = pytest.mark.parametrize("name", MITIGATIONS)


def build(name):
    return MITIGATIONS[name](**SETTINGS[name])


@pytest.mark.parametrize("policy", ["mlp", "cnn"])
@ALL
@EVERY
def test_a_mitigation_changes_training_and_logs_finite_values(
    name, algorithm, policy, make, parameters, memory_logger
):
    def train(mitigations):
        agent = make(algorithm, mitigations, policy)
        logger, memory = memory_logger()
        agent.set_logger(logger)
        agent.start_task(0)
        agent.learn(64, log_interval=1)
        agent.start_task(1)
        agent.learn(32, log_interval=1, reset_num_timesteps=False)
        agent.dump_logs()
        return parameters(agent), memory.dumps[-1]

    mitigation = build(name)
    mitigated, log = train([mitigation])
    plain, plain_log = train([])
    assert mitigated.keys() != plain.keys() or not all(torch.equal(mitigated[n], plain[n]) for n in plain)
    assert all(p.isfinite().all() for p in mitigated.values())
    values = mitigation.values()
    acts = ("penalty", "before_update", "after_update", "on_task_start")
    assert values or all(getattr(type(mitigation), hook) is getattr(Mitigation, hook) for hook in acts)
    assert all(math.isfinite(value) for value in values.values())
    assert {f"plasticity/{key}": value for key, value in values.items()}.items() <= log.items()
    assert log.keys() - {f"plasticity/{key}" for key in values} == plain_log.keys()


@ALL
@EVERY
def test_a_mitigation_survives_saving_and_goes_on_working(name, algorithm, make, parameters, tmp_path):
    agent = make(algorithm, [build(name)])
    agent.start_task(0)
    agent.learn(48)
    agent.start_task(1)
    (own,) = agent.mitigations
    agent.save(tmp_path / "agent")
    loaded = algorithm.load(tmp_path / "agent", env=agent.get_env())
    (kept,) = loaded.mitigations
    assert kept == own
    assert kept is not own
    assert kept.state() == own.state()
    assert kept.tensors().keys() == own.tensors().keys()
    assert all(torch.equal(tensor, kept.tensors()[key]) for key, tensor in own.tensors().items())
    before = parameters(loaded)
    assert all(torch.equal(p, before[n]) for n, p in parameters(agent).items())
    loaded.learn(48)
    assert kept.values().keys() >= own.values().keys()
    moved = any((p != before[n]).any() for n, p in parameters(loaded).items())
    assert moved or kept.state() != own.state()  # TRAC may hold the parameters where they began


@EVERY
def test_attaching_twice_is_attaching_once(name, make):
    mitigation = build(name)
    agent = make(PPO, [mitigation])
    groups, policy = copy.deepcopy(agent.policy.optimizer.state_dict()), agent.policy.state_dict().keys()
    mitigation.attach(agent)
    assert agent.policy.optimizer.state_dict() == groups
    assert agent.policy.state_dict().keys() == policy


@EVERY
def test_a_mitigation_says_what_it_is_set_to(name):
    assert all(f"{key}={value!r}" in repr(build(name)) for key, value in SETTINGS[name].items())


@EVERY
def test_a_mitigation_names_its_paper_and_explains_every_setting(name):
    text = MITIGATIONS[name].__doc__
    assert "arXiv" in text or "openreview.net" in text
    for setting in inspect.signature(MITIGATIONS[name]).parameters:
        assert f"        {setting}: " in text or f"    {setting}: " in text.split("Args:")[1]


@pytest.mark.parametrize("name", MITIGATIONS)
def test_a_copy_made_before_it_has_an_agent_is_as_good_as_the_original(name, make, parameters):
    copied = copy.deepcopy(copy.deepcopy(build(name)))
    one, other = (parameters(make(PPO, [mine]).learn(32)) for mine in (build(name), copied))
    assert all(torch.equal(one[parameter], other[parameter]) for parameter in one)


def test_an_agent_with_mitigations_is_not_copied_without_them(make):
    with pytest.raises(AgentError, match=r"cannot be deep-copied.*PPO\.load"):
        copy.deepcopy(make(PPO, [build("trac")]))
    agent = make(PPO)
    twin = copy.deepcopy(agent)
    assert twin.policy is not agent.policy
    assert twin.learn(32).num_timesteps == 32


@pytest.mark.parametrize("name", ["effective-rank", "isotropy", "parseval", "redo", "continual-backprop"])
def test_an_empty_list_of_layers_is_refused(name, make):
    with pytest.raises(InvalidSetting, match="'s layers is empty: name some"):
        make(PPO, [MITIGATIONS[name](layers=[])])


# Combinations -----------------------------------------------------------------------------------------------

PAIRS = [(a, b) for i, a in enumerate(MITIGATIONS) for b in list(MITIGATIONS)[i + 1 :]]


def is_refused(*names):
    try:
        check_combination([build(name) for name in names])
    except InvalidSetting:
        return True
    return False


FLAGS = [
    (name, field.name)
    for name, kind in MITIGATIONS.items()
    for field in dataclasses.fields(kind)
    if field.type in (bool, "bool")
]


@pytest.mark.parametrize(("name", "flag"), FLAGS)
def test_no_text_counts_as_true(name, flag):
    required = {"strength": 1e-3} if name == "l2" else {}
    for value in ("False", "abc", 1, None):
        with pytest.raises(InvalidSetting, match=f"{flag} must be True or False"):
            MITIGATIONS[name](**required, **{flag: value})


NUMBERS = [
    (name, field.name)
    for name, kind in MITIGATIONS.items()
    for field in dataclasses.fields(kind)
    if field.init and re.search(r"\b(int|float)\b", str(field.type))
]


@pytest.mark.parametrize(("name", "setting"), NUMBERS)
@pytest.mark.parametrize("value", ["abc", "1", [1, "a"], {}, float("nan"), True, -(10**400)])
def test_what_is_no_number_is_refused_with_the_name_of_the_setting(name, setting, value):
    required = {"strength": 1e-3} if name == "l2" else {}
    with pytest.raises(InvalidSetting, match=rf"{MITIGATIONS[name].__name__}\b.*\b{setting}\b"):
        MITIGATIONS[name](**{**required, setting: value})


def test_a_layer_is_not_taken_for_a_list_of_letters(make):
    with pytest.raises(InvalidSetting, match="must be a list of names, not 'actor/0'"):
        make(PPO, [MITIGATIONS["redo"](layers="actor/0")])


@pytest.mark.parametrize("name", MITIGATIONS)
def test_two_of_a_kind_work_or_are_refused(name, make):
    def two():
        return make(PPO, [build(name), build(name)])

    if build(name).overrides("build") or build(name).overrides("remodel"):
        with pytest.raises(InvalidSetting, match="twice, but it changes the networks only once"):
            two()
    else:
        agent = two()
        agent.start_task(0)
        agent.learn(32)
        agent.start_task(1)
        assert agent.learn(32, reset_num_timesteps=False).num_timesteps == 64
    mine = build(name)
    with pytest.raises(InvalidSetting, match=r"has one .* twice"):
        make(PPO, [mine, mine])


def test_conflicts_name_mitigations_that_exist_with_a_reason():
    known = {kind.__name__ for kind in MITIGATIONS.values()}
    for kind in MITIGATIONS.values():
        assert kind.conflicts.keys() <= known - {kind.__name__}
        assert all(reason.endswith(".") for reason in kind.conflicts.values())


@EVERY
def test_everything_works_with_l2(name):
    assert not is_refused(name, "l2")


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
@ALL
def test_every_pair_works_or_is_refused(pair, algorithm, make, parameters):
    mitigations = [build(name) for name in pair]
    if is_refused(*pair):
        with pytest.raises(InvalidSetting, match="cannot work with"):
            make(algorithm, mitigations)
        return
    agent = make(algorithm, mitigations)
    for task in range(3):
        agent.start_task(task)
        agent.learn(48, reset_num_timesteps=task == 0)
    assert all(p.isfinite().all() for p in parameters(agent).values())


@ALL
def test_networks_are_remodelled_in_one_order_whatever_the_order_given(algorithm, make, parameters):
    names = ["plasticity-injection", "layer-norm"]
    one, other = (make(algorithm, [build(name) for name in order]) for order in (names, names[::-1]))
    assert parameters(one).keys() == parameters(other).keys()
    assert all(torch.equal(p, parameters(other)[name]) for name, p in parameters(one).items())


def test_a_remodelled_agent_has_an_optimiser_of_its_new_parameters(make):
    agent = make(PPO, [build("layer-norm"), L2(0.1)], learning_rate=0.25)
    (group,) = agent.policy.optimizer.param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in agent.policy.parameters()}
    assert (group["lr"], group["eps"], group["weight_decay"]) == (0.25, 1e-5, 0.1)
