"""A study: made once from a plan, opened again by later commands and other processes, and read as rows.

Source: Akiba et al., Optuna, KDD 2019, which the paper cites; Section 3 for what it searched.
"""

from collections.abc import Callable, Mapping
from typing import Any

import optuna
import sqlalchemy as sql
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from pipeline.training.recipes import Recipe
from pipeline.training.settings import differences
from pipeline.tuning.options import HALVING, MEDIAN, NO_PRUNING
from pipeline.tuning.plan import SearchPlan
from pipeline.tuning.retries import FAILURE, first_trial
from pipeline.tuning.spaces import SPACES
from pipeline.tuning.storage import Storage, StudyError, first_line
from pipeline.tuning.trials import COMPLETE, FAILED, PRUNED, RETRIED, RUNNING, WAITING, TrialRow

_SETTINGS = "search"
_STATES = {
    TrialState.RUNNING: RUNNING,
    TrialState.WAITING: WAITING,
    TrialState.COMPLETE: COMPLETE,
    TrialState.PRUNED: PRUNED,
    TrialState.FAIL: FAILED,
}
_PRUNERS: Mapping[str, Callable[[Recipe], BasePruner]] = {
    # Dice only starts to rise after some hundred steps: in the first quarter of the epochs it says nothing.
    MEDIAN: lambda recipe: MedianPruner(n_startup_trials=5, n_warmup_steps=recipe.epochs // 4),
    HALVING: lambda recipe: SuccessiveHalvingPruner(min_resource=recipe.validate_every, reduction_factor=3),
    NO_PRUNING: lambda _: NopPruner(),
}


def open_study(plan: SearchPlan, storage: Storage, name: str) -> optuna.Study:
    """Open the study of a plan, or make it, with the paper's point as its first trial.

    Raises:
        StudyError: the storage cannot be reached, or holds another search under this name.
        RunError: the phase to start from has not ended.
    """
    settings = plan.settings()
    paper = {parameter.name: parameter.paper for parameter in plan.space}
    # The lock of the whole storage, because the first process to connect makes its tables.
    with storage.errors(), storage.lock():
        study = optuna.create_study(
            study_name=name,
            storage=storage.connect(),
            pruner=_PRUNERS[plan.pruner](plan.run.recipes[plan.phase]),
            direction="maximize",
            load_if_exists=True,
        )
        if _SETTINGS not in study.user_attrs:
            if any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False)):
                raise StudyError(
                    f"study {name}: expected one that tune made, got one without its settings; choose another --study"
                )
            study.enqueue_trial(paper, skip_if_exists=True)
            study.set_user_attr(_SETTINGS, settings)
    _refuse_older(study)
    if differing := list(differences(settings_of(study), settings)):
        raise StudyError(
            f"study {name}: expected the search that it was made for, got another: {'; '.join(differing)}; "
            "repeat its options, or choose another --study"
        )
    return study


def load_study(storage: Storage, name: str) -> optuna.Study:
    """Open an existing study to read it.

    Raises:
        StudyError: the storage cannot be reached, or holds no study of this name that `tune` of this version can use.
    """
    if storage.file and not storage.file.exists():
        raise StudyError(f"{storage.file}: expected a file of studies, got none; check --runs or --storage")
    with storage.errors():
        connected = storage.connect()
        names = sorted(optuna.get_all_study_names(connected))
        if name not in names:
            raise StudyError(
                f"study {name}: expected one of {', '.join(names) or 'none, the storage is empty'} in {storage.shown}; "
                "check --study, or make it with tune"
            )
        study = optuna.load_study(study_name=name, storage=connected)
    if _SETTINGS not in study.user_attrs:
        raise StudyError(f"study {name}: expected one that tune made, got one without its settings")
    _refuse_older(study)
    return study


def _refuse_older(study: optuna.Study) -> None:
    """Refuse a study whose parameters have other names than today's recipes."""
    settings = settings_of(study)
    stored, known = list(settings["space"]), [parameter.name for parameter in SPACES[settings["phase"]]]
    if stored != known:
        raise StudyError(
            f"study {study.study_name}: expected the parameters {', '.join(known)}, got {', '.join(stored)}; "
            "an older version of crossmoda-grl made it, and its trials cannot be continued: choose another --study"
        )


def settings_of(study: optuna.Study) -> dict[str, Any]:
    """Return the settings that a study was made with, as `SearchPlan.settings` gave them."""
    settings: dict[str, Any] = study.user_attrs[_SETTINGS]
    return settings


def rows_of(study: optuna.Study) -> list[TrialRow]:
    """Return the trials of a study in the order of their numbers.

    Raises:
        StudyError: the storage cannot be reached.
    """
    try:
        trials = study.get_trials(deepcopy=False)
    except (sql.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise StudyError(f"storage: expected it to answer, got: {first_line(error)}") from error
    retries = {number: t.number for t in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(t)}
    return [_row(trial, retries.get(trial.number)) for trial in trials]


def _row(trial: FrozenTrial, retried_as: int | None) -> TrialRow:
    values = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    epoch = max(trial.intermediate_values, default=None)
    score = trial.value
    if score is None and epoch is not None:
        score = trial.intermediate_values[epoch]
    state = _STATES[trial.state]
    # A retry inherits the attributes of the trial that it repeats: they count only if this trial failed itself.
    note = trial.user_attrs.get(FAILURE, "") if state == FAILED else ""
    if retried_as is not None:
        state, note = RETRIED, f"{note or 'its process died'}; retried as trial {retried_as}"
    elif state == FAILED and not note:
        note = "its process died or failed"
    elif not note and first_trial(trial) != trial.number:
        note = f"retry of trial {first_trial(trial)}"
    seconds = trial.duration.total_seconds() if trial.duration else None
    return TrialRow(trial.number, state, values, epoch, score, seconds, note)
