"""The tables of settings.md, from the models that read a spec and the rules that draw from it.

``python docs/settings.py`` writes a table after each line of the form ``<!-- table: name -->``, in place of
the one that is there. A test holds the page against what this would write.
"""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pliant.agents import ACTIVATIONS, FEATURES_EXTRACTORS, INITIALISATIONS
from pliant.diagnostics import SnapshotSettings
from pliant.envs import SequenceSpec
from pliant.envs.rules import RULES, resolve
from pliant.runs import spec

PAGE = Path(__file__).with_name("settings.md")
PLACE = re.compile(r"<!-- table: ([\w-]+) -->\n\n(?:(?:\|.*\n)+\n)?")

TABLES: dict[str, type[BaseModel]] = {
    "run": spec.RunSpec,
    "tasks": SequenceSpec,
    "agent": spec.AgentSettings,
    "ppo": spec.PPOSpec,
    "dqn": spec.DQNSpec,
    "classifier": spec.ClassifierSpec,
    "network": spec.NetworkSpec,
    "optimizer": spec.OptimizerSpec,
    "diagnostics": spec.DiagnosticsSpec,
    "spectrum": spec.SpectrumSpec,
    "evaluation": spec.EvaluationSpec,
    "checkpoints": spec.CheckpointSpec,
}

EXPLAINED_BY = {spec.SpectrumSpec: [SnapshotSettings]}
"""Classes that a model leaves explanations to."""

EXAMPLES: dict[str, dict[str, Any]] = {
    "arange": {"start": 9.8, "step": 0.5},
    "choice": {"values": ["left", "right"]},
    "geomspace": {"low": 1.0, "high": 27.0},
    "integer": {"low": 1, "high": 6},
    "linspace": {"low": 0.0, "high": 1.5},
    "list": {"values": [0.3, 0.1, 0.3, 0.9]},
    "log-uniform": {"low": 0.02, "high": 2.0},
    "normal": {"mean": 1.0, "std": 0.1},
    "seed": {},
    "uniform": {"low": 0.0, "high": 1.0},
    "walk": {"start": 1.0, "std": 0.2, "low": 0.5, "high": 2.0},
    "window": {"of": 10, "size": 2},
}
"""Of each rule; the page shows what it gives to four tasks."""


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """What each field is: the string below it, or its entry under ``Attributes:``."""
    found = {}
    for kind in (*EXPLAINED_BY.get(model, ()), *reversed(model.__mro__[: model.__mro__.index(BaseModel)])):
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
        for field, below in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                found[ast.unparse(field.target)] = inspect.cleandoc(ast.literal_eval(below.value))
        _, _, listed = (inspect.getdoc(kind) or "").partition("Attributes:\n")
        found |= dict(re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", listed, re.MULTILINE))
    return {name: tidy(text) for name, text in found.items() if name in model.model_fields}


def tidy(text: str) -> str:
    """One line of Markdown that begins with a capital; TOML's keys are left out where Python has None."""
    line = re.sub(r"\bNone\b", "none", " ".join(text.replace("``", "`").split()))
    return line[0].upper() + line[1:]


def quoted(words: Iterable[str]) -> str:
    """As code, with commas between them."""
    return ", ".join(f"`{word}`" for word in words)


def choices(annotation: Any) -> list[str]:
    """The words that a field may be, or hold."""
    if get_origin(annotation) is Literal:
        return [one for one in get_args(annotation) if isinstance(one, str) and one]
    return [one for argument in get_args(annotation) for one in choices(argument)]


def tables_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field may be: it is then a table of its own."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [one for argument in get_args(annotation) for one in tables_in(argument)]


def default(model: type[BaseModel], name: str) -> str:
    """As TOML writes it, which has no word for none."""
    value = model.model_fields[name].get_default(call_default_factory=True)
    if value in (None, PydanticUndefined):
        return "none"
    if isinstance(value, float):
        return f"`{value!r}`"
    return f"`{json.dumps(value)}`"


def settings(model: type[BaseModel]) -> list[list[str]]:
    """Header and a row per field that the model itself has, not its base."""
    told = meanings(model)
    rows = [["key", "default", "meaning"]]
    for name, field in model.model_fields.items():
        if name in model.__annotations__ and name != "algorithm" and not tables_in(field.annotation):
            words = choices(field.annotation)
            known = "" if all(word in told[name] for word in words) else f" Known: {quoted(words)}."
            rows.append([f"`{name}`", default(model, name), told[name] + known])
    return rows


def parameters(name: str) -> str:
    """Of a rule, with their defaults."""
    model = RULES[name]
    said = {key: default(model, key).strip("`") for key in model.model_fields if key != "rule"}
    return quoted(key if value == "none" else f"{key} = {value}" for key, value in said.items())


def rules() -> Iterable[list[str]]:
    """Header and a row per rule: what it does, and an example with what it gives to four tasks."""
    yield ["rule", "parameters", "what each task gets", "for example", "in four tasks"]
    for name, example in EXAMPLES.items():
        table = {"rule": name, **example}
        drawn = [resolve({"example": table}, seed=0, index=i, count=4)["example"] for i in range(4)]
        inner = ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
        what = (inspect.getdoc(RULES[name]) or "").replace("``", "`")
        explained = "; ".join(
            f"`{key}`: {text[0].lower()}{text[1:].rstrip('.')}" for key, text in meanings(RULES[name]).items()
        )
        what = " ".join(what.partition("\n\nAttributes:")[0].split())
        shown = ", ".join(f"{one:.4g}" if isinstance(one, float) else json.dumps(one) for one in drawn)
        yield [f"`{name}`", parameters(name), f"{what} {explained}".strip(), f"`{{ {inner} }}`", shown]


def names() -> Iterable[list[str]]:
    """Header and a row per setting whose values are names of a dict."""
    yield ["key", "names"]
    for key, known in (
        ("activation", ACTIVATIONS),
        ("initialisation", INITIALISATIONS),
        ("extractor", FEATURES_EXTRACTORS),
    ):
        yield [f"`{key}`", quoted(known)]


def filled(page: str) -> str:
    """The page with its tables as the code has them."""

    def table(place: re.Match[str]) -> str:
        makers = {"rules": rules, "names": names}
        name = place[1]
        header, *body = makers[name]() if name in makers else settings(TABLES[name])
        lines = [header, ["---"] * len(header), *body]
        marker = place[0].partition("\n")[0]
        return f"{marker}\n\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + "\n"

    return PLACE.sub(table, page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
