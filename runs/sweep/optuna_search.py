"""Search with Optuna: its sampler chooses the settings of an arm, a batch at a time.

A search is repeatable: batches have a fixed size whatever the number of workers, results are told in the
order of the trials, and the sampler is seeded anew for every trial from its number. So a search that was
stopped goes on as if it had not been, and settings do not depend on which run happened to end first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..errors import RunError
from .jobs import Job
from .objective import objective
from .protocol import Sweep, Trial, budget, scores_of
from .space import Setting

if TYPE_CHECKING:
    from optuna import Study
    from optuna import Trial as Asked

_SETTLED = ("COMPLETE", "PRUNED", "FAIL")


class OptunaError(RunError):
    """Optuna is not installed, or its storage cannot be used."""


def search(sweep: Sweep, arm: str) -> Generator[Sequence[Job], None, list[Trial]]:
    """Try as many settings of ``arm`` as the budget has; yields the runs of a batch, returns all trials."""
    tune = sweep.definition.tune
    assert tune is not None
    study = _study(sweep, arm)
    total = budget(sweep.definition, arm)
    while (begun := _first_open(study)) < total:
        first = begun - begun % tune.batch
        numbers = range(first, min(first + tune.batch, total))
        batch = {number: _ask(study, number, sweep, arm) for number in numbers}
        open_ = {number: trial for number, trial in batch.items() if _state(study, number) not in _SETTLED}
        yield from _evaluate(sweep, arm, study, open_, prune=tune.prune)
    return asked(sweep, arm)


def asked(sweep: Sweep, arm: str) -> list[Trial]:
    """The trials of ``arm`` so far."""
    if sweep.storage is None and not sweep.folder.database(arm).exists():
        return []
    return [
        sweep.trial(arm, trial.number, _setting(trial.params), pruned=trial.state.name == "PRUNED")
        for trial in _study(sweep, arm).get_trials(deepcopy=False)
        if set(trial.params) == set(sweep.definition.space_of(arm))  # not one cut off while it was asked for
    ]


def _evaluate(
    sweep: Sweep, arm: str, study: Study, batch: Mapping[int, Asked], *, prune: bool
) -> Generator[Sequence[Job], None, None]:
    """Run the settings of a batch and tell Optuna; with ``prune`` seed by seed, so that some are dropped."""
    from optuna.trial import TrialState

    tune = sweep.definition.tune
    assert tune is not None
    metric = objective(tune.metric)
    alive = {number: sweep.trial(arm, number, _setting(trial.params)) for number, trial in batch.items()}
    seeds = len(tune.seeds)
    for done in range(1, seeds + 1) if prune else (seeds,):
        yield [job for trial in alive.values() for job in trial.jobs[:done]]
        for number, trial in list(alive.items()):
            so_far = Trial(arm, number, trial.setting, trial.jobs[:done])
            value = fmean(scores_of(so_far, metric))
            if done == seeds:
                study.tell(number, value)
            elif _is_dropped(batch[number], value, done):
                study.tell(number, state=TrialState.PRUNED)
                del alive[number]


def _is_dropped(trial: Asked, value: float, done: int) -> bool:
    """Whether Optuna's pruner gives ``trial`` up after ``done`` seeds; what it once kept, it keeps."""
    if trial.user_attrs.get("kept", 0) >= done:
        return False  # decided by an earlier process, when fewer trials were there to be held against
    if done not in trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
        trial.report(value, step=done)
    if trial.should_prune():
        return True
    trial.set_user_attr("kept", done)
    return False


def _study(sweep: Sweep, arm: str) -> Study:
    """The study of ``arm``, found or made."""
    optuna = _optuna()
    tune = sweep.definition.tune
    assert tune is not None
    name = f"{sweep.definition.name}/{arm}"
    storage = sweep.storage or f"sqlite:///{sweep.folder.database(arm).absolute()}"
    direction = "maximize" if objective(tune.metric).better == "more" else "minimize"
    try:
        if sweep.storage is None:
            sweep.folder.database(arm).parent.mkdir(exist_ok=True)
        study = optuna.create_study(
            study_name=name,
            storage=_storage(storage),
            direction=direction,
            pruner=optuna.pruners.MedianPruner(),
            load_if_exists=True,
        )
        question = _fingerprint(sweep, arm)
        if not study.user_attrs and not study.get_trials(deepcopy=False):
            study.set_user_attr("pliant", question)
        if study.user_attrs.get("pliant") != question:
            raise OptunaError(
                f"the storage {storage!r} has a study {name!r} of another space, budget or base; give the "
                'sweep another name = "...", or another storage'
            )
    except OptunaError:
        raise
    except Exception as error:  # whatever the database's driver raises
        raise OptunaError(f"the Optuna storage {storage!r} cannot be used: {error}") from None
    found: Study = study
    return found


def _storage(storage: str) -> Any:
    """A database's URL as Optuna takes it; a path is the file of a journal, for shared filesystems."""
    if "://" in storage:
        return storage
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(storage))


def _ask(study: Study, number: int, sweep: Sweep, arm: str) -> Asked:
    """Trial ``number``, which is new or was asked for before; its values are drawn or as they were."""
    optuna = _optuna()
    tune = sweep.definition.tune
    assert tune is not None
    study.sampler = optuna.samplers.TPESampler(
        seed=_seed(tune.sampler_seed, arm, number), constant_liar=tune.batch > 1
    )
    known = study.get_trials(deepcopy=False)
    # A trial of an earlier process: Optuna's own way to take it up again is its number in the storage.
    trial: Asked = optuna.Trial(study, known[number]._trial_id) if number < len(known) else study.ask()
    for key, values in sweep.definition.space_of(arm).items():
        _suggest(trial, key, values)
    return trial


def _suggest(trial: Asked, key: str, values: Any) -> None:
    """Have Optuna choose for ``key``; values of a list go as JSON, because storages keep only plain ones."""
    if isinstance(values, list) or values["rule"] == "choice":
        every = values if isinstance(values, list) else values["values"]
        trial.suggest_categorical(key, [json.dumps(value) for value in every])
    elif values["rule"] == "integer":
        trial.suggest_int(key, values["low"], values["high"])
    else:
        trial.suggest_float(key, values["low"], values["high"], log=values["rule"] == "log-uniform")


def _setting(params: Mapping[str, Any]) -> Setting:
    return {key: json.loads(value) if isinstance(value, str) else value for key, value in params.items()}


def _first_open(study: Study) -> int:
    """The number of the first trial that has no result yet, or that the next one will have."""
    trials = study.get_trials(deepcopy=False)
    return next((t.number for t in trials if t.state.name not in _SETTLED), len(trials))


def _state(study: Study, number: int) -> str:
    return study.get_trials(deepcopy=False)[number].state.name


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4])


def _fingerprint(sweep: Sweep, arm: str) -> str:
    """What a study must have been asked for to be this arm's."""
    definition = sweep.definition
    table = definition.model_dump(mode="json", include={"set", "tune"})
    table |= {"arm": definition.arms[arm].model_dump(mode="json"), "space": definition.space_of(arm)}
    base = {key: value for key, value in definition.base.items() if key not in ("arms", "description")}
    table["base"] = {**base, "arm": definition.base["arms"][definition.arms[arm].arm or arm]}
    return hashlib.sha256(json.dumps(table, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        raise OptunaError('searching with Optuna needs: pip install "pliant[optuna]"') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
