"""Every mitigation, on every agent, goes on from a checkpoint as if it had never been away."""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from pliant.agents import MITIGATIONS, Agent
from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import validate
from pliant.runs.training import train

# What makes each of them do something within 256 environment steps; the defaults of the others do.
SETTINGS = {
    "c-chain": {"initial": 10.0, "warmup": 5},  # longer than a task of PPO
    "continual-backprop": {"replacement_rate": 0.05, "maturity": 3},
    "isotropy": {"ratio": 0.1},
    "l2": {"strength": 1e-1},
    "l2-init": {"strength": 1e-1},
    "mixture-of-experts": {"experts": 3},
    "normalize-and-project": {"every": 2},
    "parseval": {"strength": 1e-2},
    "plasticity-injection": {"tasks": [1]},
    "redo": {"threshold": 0.5, "every": 4},
    "shrink-and-perturb": {"shrink": 0.99, "noise": 1e-3},
    "spectral": {"strength": 1e-1},
    "weight-clipping": {"kappa": 0.5},
}
NETWORK = {"hidden": [8, 8], "activation": "relu"}
CARTPOLE = {"env": "CartPole-v1", "length": 128, "count": 2}
STREAM = {
    "env": "pliant/Stream-v0",
    "kwargs": {"samples": 30, "permute_inputs": {"rule": "seed"}},
    "length": 128,
    "count": 2,
}
TABLES = {
    "ppo": {"algorithm": "ppo", "n_steps": 32, "batch_size": 16, "n_epochs": 1},
    "dqn": {"algorithm": "dqn", "learning_starts": 16, "buffer_size": 100, "target_update_interval": 20},
    "classifier": {"algorithm": "classifier", "batch_size": 8, "updates_per_rollout": 2},
}


def begin(out: Path, algorithm: str, mitigation: str) -> RunFolder:
    table = {
        "name": "toy",
        "tasks": STREAM if algorithm == "classifier" else CARTPOLE,
        "agent": {**TABLES[algorithm], "network": NETWORK},
        "mitigations": {mitigation: SETTINGS.get(mitigation, {})},
        "diagnostics": {"at": [], "every": 0},
        "evaluation": {"tasks": "none"},
        "checkpoints": {"every": 64},
    }
    plan = make_plan(validate(table, source="test"), "cpu")
    return RunFolder.create(out, plan.spec, plan.boundaries)


class Killed(BaseException):
    """The process is gone."""


CASES = [
    pytest.param(algorithm, name, marks=[] if algorithm == "ppo" or name == "l2" else [pytest.mark.slow])
    for algorithm in TABLES
    for name in MITIGATIONS
]


@pytest.mark.parametrize(("algorithm", "mitigation"), CASES)
def test_a_mitigation_goes_on_as_if_it_had_never_been_away(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_equal_runs: Callable[[RunFolder, RunFolder], None],
    algorithm: str,
    mitigation: str,
) -> None:
    whole, folder = (begin(tmp_path / name, algorithm, mitigation) for name in ("whole", "stopped"))
    train(make_plan(whole.read_spec(), "cpu"), whole, lambda _: None, lambda: False)
    descend, updates = Agent._descend, count(1)
    total = validate(whole.read_spec().model_dump(mode="json"), source="test").gradient_updates(256)

    def deadly(agent: Agent, *args: object, **kwargs: object) -> float:
        if next(updates) == total * 7 // 8:  # within the second half of the second task
            raise Killed
        return descend(agent, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Agent, "_descend", deadly)
        with pytest.raises(Killed):
            train(make_plan(folder.read_spec(), "cpu"), folder, lambda _: None, lambda: False)
    assert int(folder.checkpoint_list()[-1].name) == 192
    train(make_plan(folder.read_spec(), "cpu"), folder, lambda _: None, lambda: False, resume=True)
    assert_equal_runs(whole, folder)
