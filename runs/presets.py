"""From a preset's name (or a TOML file), an arm and ``--set`` to a RunSpec; errors name the remedy."""

from __future__ import annotations

import copy
import difflib
import json
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import tomli_w
from pydantic import BaseModel, ValidationError

from .errors import DamagedFile, SpecError
from .reading import parse_toml, read_toml
from .spec import NAME, RunSpec

Table = dict[str, Any]

M = TypeVar("M", bound=BaseModel)

_ARMS = "arms"
"""The name of the file, and of the table, that defines the arms."""

_ALGORITHMS = "'ppo', 'dqn' or 'classifier'"


def preset_names() -> list[str]:
    """Names of the shipped presets, in alphabetical order."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in resources.files(f"{__package__}.specs").iterdir()
        if entry.name.endswith(".toml") and entry.name != f"{_ARMS}.toml"
    )


def load_spec(
    preset: str, *, arm: str | None = None, settings: Sequence[str] = (), seed: int | None = None
) -> RunSpec:
    """Resolve a preset into a validated spec.

    The order, each laid over the one before: the preset that it ``extends``, if any; the preset; its arm (the
    one in ``specs/arms.toml`` under the preset's own table of that name); ``settings``.

    Args:
        preset: name of a shipped preset, or path of a TOML file.
        arm: named set of mitigations; the preset's own choice if None.
        settings: ``"dotted.key=value"``, the value in TOML.
        seed: seed of the run; the preset's if None.

    Raises:
        SpecError: anything in it is unknown or invalid; the text says what and which names exist.
    """
    return build_spec(load_table(preset), arm=arm, settings=settings, seed=seed, source=preset)


def load_table(preset: str) -> Table:
    """All of a preset before an arm is chosen: what it extends, itself, and every arm under ``arms``.

    A resolved spec, such as the ``run.toml`` of a run folder, says everything: its only arm is its own, which
    adds nothing to it.

    Raises:
        SpecError: there is no such preset or file, or it cannot be read.
    """
    table = _resolve(preset)
    table.setdefault("name", Path(preset).stem)
    if _ARMS not in table and RunSpec.model_fields.keys() <= table.keys():
        return {**table, _ARMS: {str(table["arm"]): {}}}
    own = table.get(_ARMS, {})
    arms = merge(_shipped(_ARMS), own) if isinstance(own, dict) else own
    return with_arms({**table, _ARMS: arms}, source=preset)


def with_arms(table: Table, *, source: str) -> Table:
    """``table``, once its arms have been found to be tables; the shipped ones if it has none."""
    arms = table.get(_ARMS, _shipped(_ARMS))
    if not isinstance(arms, dict) or not all(isinstance(arm, dict) for arm in arms.values()):
        raise SpecError(f"{_ARMS} in {source!r}: expected tables such as [{_ARMS}.l2.mitigations.l2]")
    return {"name": source, **table, _ARMS: arms}


def build_spec(
    table: Mapping[str, Any],
    *,
    arm: str | None = None,
    settings: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
    seed: int | None = None,
    source: str,
) -> RunSpec:
    """The spec of one arm of ``table``, which :func:`load_table` gave and which stays as it is.

    Args:
        table: a preset with its arms.
        arm: as in :func:`load_spec`.
        settings: as in :func:`load_spec`.
        changes: values by dotted key, laid over ``settings``.
        seed: as in :func:`load_spec`.
        source: what errors call the table.
    """
    whole: Table = copy.deepcopy(dict(table))  # changes reach into lists
    arms = whole.pop(_ARMS)
    chosen = arm or whole.get("arm", "bp")
    if not isinstance(chosen, str) or chosen not in arms:
        raise SpecError(f"there is no arm {chosen!r} in {source!r}{_instead_of(str(chosen), arms)}")
    whole = merge(whole, arms[chosen])
    whole["arm"] = chosen
    assign(whole, settings)
    for key, value in (changes or {}).items():
        _put(whole, key, value, said=key)
    if seed is not None:
        whole["seed"] = seed
    return validate(whole, source=source)


def shipped_arms() -> list[str]:
    """The arms that every preset has."""
    return list(_shipped(_ARMS))


def arm_names(preset: str) -> list[str]:
    """The arms of a preset: the shipped ones and its own."""
    return list(load_table(preset)[_ARMS])


def validate(table: Table, *, source: str) -> RunSpec:
    """Build the spec of ``table``; ``source`` is what the error calls it."""
    return validate_as(RunSpec, table, source=source, kind="spec")


def validate_as(model: type[M], table: Table, *, source: str, kind: str) -> M:
    """Build a ``model`` from ``table``; the errors call it a ``kind``."""
    try:
        # Through JSON, so that strict types accept a list where a tuple is meant, and nothing else.
        return model.model_validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        lines = [_explain(detail, model, kind) for detail in error.errors(include_url=False)]
        raise SpecError(
            "\n".join([f"{source} is not a valid {kind}:", *(f"  {line}" for line in lines)])
        ) from None


def dump(spec: RunSpec) -> str:
    """The resolved spec as TOML; ``validate(tomllib.loads(text))`` gives the spec back."""
    return tomli_w.dumps(spec.model_dump(mode="json", exclude_none=True))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Table:
    """``base`` with ``over`` laid on it, table by table; anything but a table is replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = (
            merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
        )
    return merged


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error's sentence: the nearest known names, or all of them."""
    known = list(known)
    parts = sorted(name.split("-"))
    if swapped := [other for other in known if sorted(other.split("-")) == parts]:  # er-l2 for l2-er
        return f"; did you mean {' or '.join(map(repr, swapped))}?"
    within = [other for other in known if len(name) >= 4 and name.lower() in other.lower()]  # "return"
    if near := within[:3] or difflib.get_close_matches(name, known, n=3, cutoff=0.5):
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; known: {', '.join(known)}." if known else "."


def _instead_of(arm: str, arms: Collection[str]) -> str:
    """As `did_you_mean`; for several arms at once, how to put mitigations together."""
    several = {*re.split(r"[,+ ]+", arm)}
    if len(several) > 1 and several <= {*arms}:
        return (
            "; a run has one arm, to which --set adds mitigations, as in --set mitigations.l2.strength=1e-4"
        )
    return did_you_mean(arm, arms)


def _resolve(preset: str, seen: tuple[str, ...] = ()) -> Table:
    """The preset's table, laid over that of the preset it ``extends``."""
    table = _read(preset)
    base = table.pop("extends", None)
    if base is None:
        return table
    if not isinstance(base, str) or base in (preset, *seen):
        raise SpecError(f"{preset!r} extends {base!r}; expected the name of another preset or TOML file")
    return merge(_resolve(base, (*seen, preset)), table)


def _read(preset: str) -> Table:
    if preset.endswith(".toml"):
        return read_named_toml(Path(preset), hint="; `train-agent --list` names the shipped presets")
    names = preset_names()
    if preset not in names:
        raise SpecError(
            f"there is no preset {preset!r}{did_you_mean(preset, names)} "
            "A file of your own is named with its ending: my-spec.toml"
        )
    return _shipped(preset)


def read_named_toml(path: Path, *, hint: str = "") -> Table:
    """The table in the file ``path``, which a person named; ``hint`` is said where there is no such file.

    Raises:
        SpecError: it cannot be read.
    """
    try:
        return read_toml(path, named=True)
    except FileNotFoundError:
        raise SpecError(f"there is no file {str(path)!r}{hint}") from None
    except (DamagedFile, ValueError) as error:  # ValueError: a name that no file can have
        raise SpecError(str(error)) from None


def _shipped(name: str) -> Table:
    return tomllib.loads(
        (resources.files(f"{__package__}.specs") / f"{name}.toml").read_text(encoding="utf-8")
    )


def assign(table: Table, settings: Sequence[str]) -> Table:
    """Change ``table`` in place by ``settings``, each ``"dotted.key=value"``, and return it."""
    for setting in settings:
        _assign(table, setting)
    return table


def _assign(table: Table, setting: str) -> None:
    """Put the value of ``a.b.c=value`` into ``table``; a number names a place in a list."""
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise SpecError(
            f"--set {setting!r} is not of the form key.key=value, for example agent.learning_rate=1e-4"
        )
    try:
        value = parse_toml(f"value = {text}")["value"]
    except ValueError:
        value = text.strip()  # a bare word is a string, so that --set schedule=whole-run needs no quotes
    _put(table, key.strip(), value, said=f"--set {setting!r}")


def _put(table: Table, key: str, value: Any, *, said: str) -> None:
    """Put ``value`` where the dotted ``key`` says; errors begin with ``said``."""
    *path, last = key.split(".")
    place: Any = table
    for name in path:
        place = place[_index(place, name, said)] if isinstance(place, list) else place.setdefault(name, {})
        if not isinstance(place, (dict, list)):
            raise SpecError(f"{said}: {name!r} is a value, not a table")
    if isinstance(place, list):
        place[_index(place, last, said)] = value
    else:
        place[last] = value


def _index(place: Sequence[Any], name: str, said: str) -> int:
    if not name.isdecimal() or int(name) >= len(place):
        raise SpecError(f"{said}: {name!r} is not a place in a list of {len(place)}, counted from 0")
    return int(name)


def _explain(detail: Any, root: type[BaseModel], kind: str) -> str:
    """One line about one thing that pydantic refused."""
    location = [str(part) for part in detail["loc"]]
    model, path = _descend(location, root)
    where = ".".join(path) or f"the {kind}"
    match detail["type"]:
        case "extra_forbidden":
            known = list(model.model_fields) if model else []
            if elsewhere := [place for place in _places(root, path[-1]) if place != where]:
                return f"{where}: unknown key; did you mean {' or '.join(map(repr, elsewhere))}?"
            return f"{where}: unknown key{did_you_mean(path[-1], known)}"
        case "missing" | "union_tag_not_found":
            return f"{where}: missing" + (f" algorithm: {_ALGORITHMS}" if "union" in detail["type"] else "")
        case "union_tag_invalid":
            return f"{where}.algorithm: expected {_ALGORITHMS}, got {detail['ctx']['tag']!r}"
        case "value_error":
            return f"{where}: {detail['ctx']['error']}"
        case "string_pattern_mismatch" if detail["ctx"]["pattern"] == NAME:
            return (
                f"{where}: it is part of the run folder's name: expected letters, digits, spaces and "
                f". , + = ( ) - _, beginning with a letter or a digit, got {_short(detail['input'])}"
            )
    return f"{where}: {detail['msg']}, got {_short(detail['input'])}"


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _descend(location: Iterable[str], root: type[BaseModel]) -> tuple[type[BaseModel] | None, list[str]]:
    """The innermost model that ``location`` reaches, and the location without pydantic's union tags."""
    model: type[BaseModel] | None = root
    path: list[str] = []
    candidates: dict[str, type[BaseModel]] = {}
    for part in location:
        if part in candidates:  # a union's tag: not a key that anybody wrote
            model, candidates = candidates[part], {}
            continue
        path.append(part)
        field = model.model_fields.get(part) if model else None
        models = _models(field.annotation) if field else []
        if len(models) == 1:
            model = models[0]
        elif models:
            candidates = {get_args(m.model_fields["algorithm"].annotation)[0]: m for m in models}
    return model, path


def _places(model: type[BaseModel], name: str, prefix: str = "") -> list[str]:
    """The dotted keys below ``model`` whose last part is ``name``."""
    found: dict[str, None] = {}
    for key, field in model.model_fields.items():
        if key == name:
            found[prefix + key] = None
        for below in _models(field.annotation):
            found |= dict.fromkeys(_places(below, name, f"{prefix}{key}."))
    return list(found)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for argument in get_args(annotation) for model in _models(argument)]
