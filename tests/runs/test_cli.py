"""The command line as a person meets it: what it says, how it exits, what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from pliant.runs import cli
from pliant.runs.cli import console
from pliant.runs.folder import RunFolder

TOY = """
[tasks]
env = "CartPole-v1"
length = 128
count = 2
[agent]
algorithm = "ppo"
n_steps = 64
n_epochs = 1
[agent.network]
hidden = [8]
[diagnostics]
figures = false
samples = 64
[diagnostics.spectrum]
depth = 4
minibatches = 4
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "toy.toml"
    path.write_text(TOY, encoding="utf-8")
    return path


@pytest.fixture
def command(call_program):
    """Call ``train-agent`` with arguments; see `call_program`."""
    return lambda *arguments: call_program(cli.train_agent, *arguments)


def program(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    """train-agent in a process of its own."""
    code = "from pliant.runs.cli import train_agent; train_agent()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


BAD = {
    "no preset": ((), "name a preset"),
    "unknown preset": (("quikstart",), "did you mean 'quickstart'"),
    "unknown arm": (("quickstart", "--arm", "l2er"), "did you mean 'l2-er'"),
    "unknown key": (("quickstart", "--set", "agent.gama=0.9"), "did you mean 'gamma'"),
    "arm with its parts swapped": (("quickstart", "--arm", "er-l2"), "did you mean 'l2-er'?"),
    "key without its table": (
        ("quickstart", "--set", "learning_rate=0.1"),
        "learning_rate: unknown key; did you mean 'agent.learning_rate'?",
    ),
    **{
        f"name {name!r}": (
            ("quickstart", "--set", f"name='{name}'"),
            "name: it is part of the run folder's name",
        )
        for name in ("../up", "a/b", "a\\b", "", "-x", ".", "/tmp/x", "a\tb")
    },
    "wrong type": (
        ("quickstart", "--set", "agent.n_steps=abc"),
        "agent.n_steps: Input should be a valid integer",
    ),
    "negative length": (("quickstart", "--set", "tasks.length=-5"), "greater than 0"),
    "zero length": (("quickstart", "--set", "tasks.length=0"), "greater than 0"),
    "unknown environment": (("quickstart", "--set", "tasks.env=CartPool-v1"), "CartPole-v1"),
    "unknown shift": (("quickstart", "--set", "tasks.shifts.0.type=observation-ofset"), "observation-offset"),
    "unknown rule": (("quickstart", "--set", "tasks.shifts.0.seed.rule=sed"), "seed"),
    "tasks of different spaces": (
        ("minigrid-rooms", "--set", "tasks.list.2.env=CartPole-v1"),
        "tasks[2] (CartPole-v1) has the observation space",
    ),
    "continuous actions with DQN": (
        ("minigrid-dqn", "--set", "tasks.list=[]", "--set", "tasks.env=Pendulum-v1"),
        "dqn needs discrete actions",
    ),
    "unknown mitigation": (("quickstart", "--arm", "bp", "--set", "mitigations.l3.strength=1.0"), "no 'l3'"),
    "unknown setting of one": (
        ("quickstart", "--set", "mitigations.l2.strenth=1.0"),
        "did you mean 'strength'",
    ),
    "bad setting of one": (("quickstart", "--set", "mitigations.l2.strength=-1.0"), "strength of at least 0"),
    "a flag that is no flag": (
        ("quickstart", "--set", "mitigations.l2.decoupled=False"),
        "mitigations.l2.decoupled: Input should be a valid boolean (true and false are written so)",
    ),
    "a word for a number": (
        ("quickstart", "--arm", "redo", "--set", "mitigations.redo.threshold=abc"),
        "mitigations.redo.threshold: Input should be a valid number, got 'abc'",
    ),
    "a word for a list": (
        ("quickstart", "--arm", "redo", "--set", "mitigations.redo.layers=actor/0"),
        "mitigations.redo.layers",
    ),
    "unknown activation": (("quickstart", "--set", "agent.network.activation=rleu"), "relu"),
    "a policy that does not fit": (
        ("quickstart", "--set", "agent.network.extractor=small-cnn"),
        "SmallCNN needs a Box of shape",
    ),
    "both seed and seeds": (("quickstart", "--seed", "1", "--seeds", "0-3"), "not both"),
    "bad seeds": (("quickstart", "--seeds", "3-1"), "expected numbers and ranges"),
    "no such file": (("mine.toml",), "there is no file 'mine.toml'"),
    "no run to resume": (("--resume", "nowhere"), "not a run folder"),
    "resume with a preset": (("quickstart", "--resume", "nowhere"), "leave out the preset"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_message_and_leaves_nothing(command, tmp_path: Path, arguments, said: str) -> None:
    results = tmp_path / "results"
    code, out, err = command(*arguments, "--out", results)
    assert code == console.BAD_INPUT
    assert said in err
    assert err.startswith("error: ")
    assert "Traceback" not in err + out
    assert not results.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="the message is for machines without a GPU")
def test_a_gpu_that_is_not_there_is_said_so(command, toy: Path, tmp_path: Path) -> None:
    code, _, err = command(toy, "--device", "cuda", "--out", tmp_path / "results")
    assert code == console.BAD_INPUT
    assert "torch sees no GPU" in err


def test_an_unwritable_output_is_said_so(command, toy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = command(toy, "--out", tmp_path / "file" / "results")
    assert code == console.BAD_INPUT
    assert "no run can be written to" in err
    assert "--out" in err


def test_a_missing_package_is_said_with_the_command_that_installs_it(
    command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)  # as if it were not installed
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.mujoco")]:
        monkeypatch.delitem(sys.modules, name)
    code, _, err = command("slippery-ant-short", "--out", tmp_path / "results")
    assert code == console.BAD_INPUT
    assert "pip install" in err
    assert "mujoco" in err
    assert not (tmp_path / "results").exists()


def test_a_dry_run_prints_the_spec_and_the_tasks_and_writes_nothing(command, tmp_path: Path) -> None:
    code, out, _ = command("cartpole-offset", "--dry-run", "--seed", "3", "--out", tmp_path / "results")
    assert code == 0
    assert 'arm = "l2-er"' in out
    assert "seed = 3" in out
    assert "20 tasks, 409,600 environment steps; nothing was run" in out
    assert "389,120" in out  # where the last task begins
    assert not (tmp_path / "results").exists()


def test_a_dry_run_shows_the_arguments_of_the_environment_by_which_tasks_differ(command, toy: Path) -> None:
    kwargs = 'tasks.kwargs={sutton_barto_reward={rule="list", values=[true, false]}}'
    code, out, _ = command(toy, "--dry-run", "--set", kwargs)
    assert code == 0
    assert "(sutton_barto_reward=True)" in out
    assert "(sutton_barto_reward=False)" in out


def test_training_goes_on_when_nobody_reads_what_it_prints(toy: Path, tmp_path: Path) -> None:
    with program(toy, "--out", tmp_path) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()  # as `| head -1` does
        assert child.stderr.read() == ""
        assert child.wait(120) == 0
    (run,) = tmp_path.glob("toy-*")
    assert RunFolder.open(run).read_manifest()["status"] == "complete"


def test_the_version_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["pliant", "--version"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert not exit_.value.code
    assert capsys.readouterr().out == f"pliant {version('pliant')}\n"


def test_the_list_names_every_preset_and_arm(command) -> None:
    from pliant.runs.presets import arm_names, preset_names

    code, out, _ = command("--list")
    assert code == 0
    for name in preset_names():
        assert name in out
    arms = " ".join(out.split()).partition("for --arm: ")[2].partition(" (")[0]
    assert arms.split(", ") == arm_names("quickstart")


def test_a_run_says_where_its_results_are_and_how_to_watch_them(command, toy: Path, tmp_path: Path) -> None:
    code, out, err = command(toy, "--out", tmp_path / "results")
    assert (code, err) == (0, "")
    (run,) = (tmp_path / "results").iterdir()
    assert str(run) in out
    assert f"tensorboard --logdir {run}" in out
    assert "task 2/2" in out
    assert "4 snapshots took" in out
    assert json.loads((run / "manifest.json").read_text())["status"] == "complete"
    code, _, err = command("--resume", run)
    assert code == console.BAD_INPUT
    assert "complete; there is nothing to go on with" in err


def test_a_loss_that_is_not_finite_names_the_quantity(command, toy: Path, tmp_path: Path) -> None:
    settings = ["--set", "agent.learning_rate=1e30", "--set", "agent.max_grad_norm=inf"]
    code, _, err = command(toy, *settings, "--out", tmp_path / "results")
    assert code == console.FAILED
    assert "not finite after" in err
    assert "Traceback" not in err


def test_ctrl_c_stops_between_rollouts_and_says_how_to_go_on_and_from_where(
    toy: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    process = program(toy, "--set", "tasks.length=1_000_000", "--out", results, "--set", "diagnostics.at=[]")
    _wait_for(lambda: any(results.glob("*/checkpoints/000000000000")))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == console.INTERRUPTED
    (run,) = results.iterdir()
    newest = max(path for path in (run / "checkpoints").iterdir() if path.name.isdecimal())
    assert f"goes on from environment step {int(newest.name):,} with: " in err
    assert f"train-agent --resume {run}" in err
    assert "Traceback" not in out + err
    assert json.loads((run / "manifest.json").read_text())["status"] == "interrupted"


def test_several_seeds_train_side_by_side_and_equal_those_trained_alone(
    toy: Path, tmp_path: Path, command
) -> None:
    out, err = program(toy, "--seeds", "0-1", "--jobs", "2", "--out", tmp_path / "together").communicate(
        timeout=120
    )
    assert err == ""
    assert command(toy, "--seed", "1", "--out", tmp_path / "alone")[0] == 0
    together = sorted((tmp_path / "together").iterdir())
    assert len(together) == 2
    assert all(path.name in out for path in together)
    (alone,) = (tmp_path / "alone").iterdir()
    tensors = "checkpoints/000000000256/tensors.safetensors"
    assert (together[1] / tensors).read_bytes() == (alone / tensors).read_bytes()
    assert (together[0] / tensors).read_bytes() != (alone / tensors).read_bytes()


def test_help_needs_no_torch() -> None:
    code = (
        "import sys, contextlib\nfrom pliant.runs.cli import main\nsys.argv = ['pliant', 'train', '--help']\n"
        "with contextlib.suppress(SystemExit):\n    main()\nassert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def _wait_for(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
