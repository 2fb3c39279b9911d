"""A mitigation in a file of one's own: trained with, evaluated; executed only where its user names it."""

import math
import re
from pathlib import Path

import pytest
import torch
import typer

from pliant.agents import Mitigation
from pliant.runs import build, cli, own_mitigations
from pliant.runs.cli.train import _conclude
from pliant.runs.errors import SpecError
from pliant.runs.execute import Outcome
from pliant.runs.folder import RunFolder

FILE = '''
"""Pull all parameters to zero, by their squares."""

from dataclasses import dataclass

from pliant.agents import Mitigation

@dataclass
class Shrink(Mitigation):
    strength: float = 1.0
    updates = 0

    def penalty(self, agent, observations):
        return self.strength * sum(p.square().sum() for p in agent.policy.parameters())

    def after_update(self, agent, update):
        self.updates += 1

    def state(self):
        return {"updates": self.updates}

    def load_state(self, state):
        self.updates = state["updates"]

MITIGATIONS = {"shrink": Shrink}
'''

SPEC = """
[tasks]
env = "CartPole-v1"
length = 64
count = 2

[agent]
algorithm = "ppo"
n_steps = 64
n_epochs = 1
network.hidden = [4]

[diagnostics]
at = []

[evaluation]
episodes = 1

[mitigations.shrink]
strength = 0.5
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "my_mitigations.py"
    path.write_text(FILE)
    (tmp_path / "mine.toml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLIANT_MITIGATIONS", path.name)
    own_mitigations._executed.cache_clear()
    return path


def test_a_file_of_ones_own_trains_and_its_checksum_is_in_the_manifest(
    call_program, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = call_program(cli.train_agent, "mine.toml")
    assert (code, err) == (0, "")
    (run,) = Path("results").iterdir()
    folder = RunFolder.open(run)
    assert re.fullmatch("sha256 [0-9a-f]{12}", folder.read_manifest()["versions"][own.name])
    state = (folder.checkpoint_list()[-1] / "state.json").read_text()
    assert '"updates": 2' in state  # a minibatch in each of two rollouts
    assert call_program(cli.main, "evaluate", run, "--on-task", "0", "--episodes", "2")[0] == 0

    monkeypatch.delenv("PLIANT_MITIGATIONS")
    code, _, err = call_program(cli.main, "measure", run)
    assert code == 2
    assert "there is no 'shrink'" in err
    assert "the environment variable PLIANT_MITIGATIONS" in err


def test_a_run_or_sweep_does_not_go_on_with_another_file_and_is_not_taken_for_the_same(
    call_program, own: Path
) -> None:
    assert call_program(cli.train_agent, "mine.toml")[0] == 0
    Path("sweep.toml").write_text('base = "mine.toml"\narms = ["bp"]\nseeds = [0]\n')
    assert call_program(cli.main, "sweep", "sweep.toml", "--jobs", "1")[0] == 0
    own.write_text(FILE.replace("return self.strength", "return 2 * self.strength"))

    (run,) = (path for path in Path("results").iterdir() if path.name.startswith("mine-"))
    RunFolder.open(run).set_status("interrupted")
    code, _, err = call_program(cli.train_agent, "--resume", run)
    assert code == 1
    assert "my_mitigations.py is not what 'results/mine-" in err
    assert "put that one back, or begin a new run" in err
    assert RunFolder.open(run).read_manifest()["status"] == "interrupted"

    code, _, err = call_program(cli.main, "sweep", "sweep.toml", "--jobs", "1")
    assert code != 0
    assert "was made with another my_mitigations.py than there is now" in err

    own_mitigations._executed.cache_clear()
    assert call_program(cli.train_agent, "mine.toml")[0] == 0
    runs = [path for path in Path("results").iterdir() if path.name.startswith("mine-")]
    RunFolder.open(run).set_status("complete")
    code, out, err = call_program(cli.main, "compare", *runs)
    assert code == 0
    assert "same experiment" not in out + err
    assert out.splitlines()[0].count("my_mitigations.py=sha256") == 2


def test_the_command_that_goes_on_names_the_file(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLIANT_DATA", "/my data")
    with pytest.raises(typer.Exit):
        _conclude([Outcome(Path("results/mine"), "interrupted", "from environment step 64")])
    said = capsys.readouterr().err
    assert "with: PLIANT_DATA='/my data' PLIANT_MITIGATIONS=my_mitigations.py " in said
    assert "train-agent --resume results/mine" in said


def test_the_example_of_the_documentation_trains(call_program, own: Path) -> None:
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    own.write_text(text)
    Path("mine.toml").write_text(SPEC.replace("mitigations.shrink", "mitigations.feature-norm"))
    assert call_program(cli.train_agent, "mine.toml")[0] == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ny = 1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("def f(:\n", "SyntaxError"),
        ("MITIGATIONS = {'shrink': 3}", 'needs a dict MITIGATIONS = {"my-penalty": MyPenalty}'),
        ("", "needs a dict MITIGATIONS"),
        (
            "from pliant.agents import Mitigation\nclass Shrink(Mitigation):\n    def penality(self): ...\n"
            "MITIGATIONS = {'shrink': Shrink}",
            "'shrink' does nothing: it has none of the hooks build, remodel, attach, penalty, ",
        ),
        (FILE.replace('"shrink"', '"l2"'), "has a mitigation 'l2', but there is one; rename it"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_before_anything_is_written(
    call_program, own: Path, text: str, said: str
) -> None:
    own.write_text(text)
    code, _, err = call_program(cli.train_agent, "mine.toml")
    assert code == 2
    assert "my_mitigations.py" in err
    assert said in err
    assert not Path("results").exists()


def test_a_file_that_is_not_there_or_is_no_python_is_refused(
    call_program, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, said in (("nowhere.py", "cannot be read: No such file"), ("mine.toml", "has to end in .py")):
        monkeypatch.setenv("PLIANT_MITIGATIONS", name)
        code, _, err = call_program(cli.train_agent, "mine.toml")
        assert code == 2
        assert said in err


def test_no_spec_can_name_a_file_or_a_module(
    call_program, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.write_text("raise SystemExit('executed')")
    monkeypatch.delenv("PLIANT_MITIGATIONS")
    for name in ("my_mitigations", "my_mitigations:Shrink", "my_mitigations.py", str(own)):
        Path("mine.toml").write_text(SPEC.replace("mitigations.shrink", f'mitigations."{name}"'))
        code, _, err = call_program(cli.train_agent, "mine.toml")
        assert code == 2
        assert f"there is no {name!r}" in err


class Typed(Mitigation):
    """Declares what TOML has no word for."""

    def __init__(
        self,
        layers: tuple[str, ...] = (),
        folder: Path = Path(),
        part: torch.nn.Module | None = None,
        bound: float = 1.0,
        flag: bool = False,
        anything=None,
    ) -> None:
        pass


def test_what_a_file_can_say_fits_what_a_mitigation_declares() -> None:
    settings = {"layers": ["a"], "folder": "b", "part": "c", "bound": math.inf, "flag": True, "anything": 1}
    build.check_types(Typed, settings, "mitigations.typed")


@pytest.mark.parametrize(
    "setting", [{"layers": "a"}, {"layers": [1]}, {"bound": "1"}, {"flag": "False"}], ids=str
)
def test_what_it_does_not_declare_is_refused_by_name(setting) -> None:
    with pytest.raises(SpecError, match=rf"mitigations\.typed\.{next(iter(setting))}.*, got "):
        build.check_types(Typed, setting, "mitigations.typed")
