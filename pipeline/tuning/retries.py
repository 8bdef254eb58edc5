"""Trials that ended before their training did: found under the study's lock, and queued again.

A process takes a trial, draws its values, sends its first heartbeat and marks the trial as taken, all under the lock
(`mark_taken`). So a running trial without this mark, seen under the lock, belongs to a process that has died, and one
with it has a heartbeat that tells when its process dies. Whoever holds the lock next repeats what a process that died
here left undone.
"""

from collections.abc import Iterable
from typing import cast

import optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from pipeline.tuning.spaces import Parameter

FAILURE = "failure"  # the attribute of a trial that says why it failed
_INTERRUPTED = "interrupted by "
_TAKEN = "taken"  # holds the trial's own number, since a retry inherits the attributes of the trial that it repeats
_MOST_RETRIES = 3


def mark_taken(study: optuna.Study, trial: optuna.Trial) -> None:
    """Send a trial's first heartbeat and mark it as taken; call it before the study's lock is released."""
    # Optuna's own thread sends it too, but at a time of its choosing.
    cast(RDBStorage, study._storage).record_heartbeat(trial._trial_id)
    trial.set_user_attr(_TAKEN, trial.number)


def mark_interrupted(trial: optuna.Trial, signal_name: str) -> None:
    """Record that a signal ended a trial, which does not count as a death of its process."""
    trial.set_user_attr(FAILURE, f"{_INTERRUPTED}{signal_name}")


def queue_unfinished(study: optuna.Study, space: Iterable[Parameter]) -> None:
    """Queue each trial again whose process died or was interrupted, with the study's lock held.

    A retry has the values of the trial that it repeats. If the process died before it had drawn all of them, they are
    drawn again, all of them from the same seed. A trial whose process died more than three times is given up.
    """
    fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.user_attrs.get(_TAKEN) != trial.number:
            study.tell(trial.number, state=TrialState.FAIL)
    trials = study.get_trials()
    names = {parameter.name for parameter in space}
    retried = {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
    for trial in trials:
        if trial.number in retried or not _is_unfinished(trial):
            continue
        tries = [trials[number] for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)] + [trial]
        if sum(_died_in_training(one, names) for one in tries) > _MOST_RETRIES:
            continue
        if not names <= trial.params.keys():
            trial.params, trial.distributions = {}, {}
        RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, trial)


def first_trial(trial: FrozenTrial) -> int:
    """Return a trial's number; for a retry, the number of the trial that it repeats."""
    repeated = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if repeated is None else repeated


def _is_unfinished(trial: FrozenTrial) -> bool:
    """Tell whether a trial failed for no reason of its own: every other failure is recorded."""
    failure = trial.user_attrs.get(FAILURE, "")
    return trial.state == TrialState.FAIL and (not failure or failure.startswith(_INTERRUPTED))


def _died_in_training(trial: FrozenTrial, names: set[str]) -> bool:
    return not trial.user_attrs.get(FAILURE, "") and names <= trial.params.keys()
