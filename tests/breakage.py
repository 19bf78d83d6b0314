"""The state machine of ``states.py`` played to the end, or with one thing broken on purpose."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seed_of
from hypothesis.stateful import run_state_machine_as_test
from pydicom.uid import generate_uid

from osteon.pipeline import admission, throttler
from osteon.pipeline.job import TRANSITIONS, Event, State
from osteon.pipeline.observer import Observer
from osteon.pipeline.table import deliveries, jobs, lines
from tests.states import STEPS, Pipeline


def uncounted(retry: Callable[..., None]) -> Callable[..., None]:
    """Return a retry that never counts as a failure."""
    return lambda *given, **named: retry(*given, **named | {"counts": False})


# Broken on purpose, one at a time: each must be found.
MUTATIONS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "a rescue gives the job up": lambda: patch.dict(
        TRANSITIONS, {(State.RUNNING, Event.RESCUE): State.FAILED}
    ),
    "a retry does not wait": lambda: patch.dict(
        TRANSITIONS, {(State.RUNNING, Event.RETRY): State.WAITING}
    ),
    "a backoff may not end": lambda: patch.dict(
        TRANSITIONS,
        {key: to for key, to in TRANSITIONS.items() if key[1] != Event.RESUME},
        clear=True,
    ),
    "what is cancelled is not": lambda: patch.dict(
        TRANSITIONS, {(State.WAITING, Event.CANCEL): State.WAITING}
    ),
    "failures are not counted": lambda: patch.object(jobs, "retry", uncounted(jobs.retry)),
    "a killed delivery is forgotten": lambda: patch.object(deliveries, "recover", lambda _: 0),
    "a job ends before its delivery": lambda: patch.object(
        lines,
        "all_delivered",
        lambda table: table.rows("SELECT * FROM job WHERE stage = 'deliver' AND state = 'waiting'"),
    ),
    "a second run has another UID": lambda: patch(
        "tests.states.derive_uid", lambda *_: str(generate_uid())
    ),
    "running jobs are not taken back": lambda: patch.multiple(
        lines, running=lambda _: [], lapsed=lambda _: []
    ),
    "who was cut off is not waited for": lambda: patch.object(
        admission, "link_of", lambda *_: None
    ),
    "the receiver is never missed": lambda: patch.object(
        Observer, "_mind_the_receiver", lambda _: None
    ),
    "the house has no limit": lambda: patch.object(throttler, "shared_limit", lambda *_: ""),
}


def examine(examples: int, mutation: str | None = None, *, seed: int = 1) -> None:
    """Play examples until one breaks a promise, which is then raised.

    Parameters
    ----------
    mutation : str, optional
        What is broken on purpose meanwhile, one of `MUTATIONS`.
    """
    chosen = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    with ExitStack() as stack:
        if mutation is not None:
            stack.enter_context(MUTATIONS[mutation]())
        machine = type("Pipeline", (Pipeline,), {})
        seed_of(seed)(machine)
        run_state_machine_as_test(machine, settings=chosen)
