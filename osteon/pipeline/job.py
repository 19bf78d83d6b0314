"""What a job is: its stages, its states, and the one table that says who may move it where.

The job table's CHECK clauses mirror these enums; ``table/jobs.py`` asks `next_state` before every
UPDATE, and the observer, the dispatcher and people at the command line are the only ones who call.
"""

from enum import StrEnum


class Stage(StrEnum):
    """Where on the route a job is. The order of the members is the order of the route."""

    ADMISSION = "admission"  # the throttler lets it in when there is room
    PREDICTION = "prediction"  # a worker predicts, per image or per volume
    BONESEG = "boneseg"  # a worker combines the predictions into one 3D bundle
    ENCODE = "encode"  # a worker writes the DICOM Segmentation and checks it
    DELIVER = "deliver"  # every delivery of its result is on its way or proven

    @property
    def next(self) -> "Stage | None":
        """The stage that follows, or None after the last."""
        stages = list(Stage)
        after = stages.index(self) + 1
        return stages[after] if after < len(stages) else None


WORKER_STAGES = (Stage.PREDICTION, Stage.BONESEG, Stage.ENCODE)


class State(StrEnum):
    """What a job is doing at its stage."""

    WAITING = "waiting"  # the throttler, the dispatcher or its last delivery moves it on
    RUNNING = "running"  # a worker holds its lease
    BACKOFF = "backoff"  # an attempt failed; the observer moves it to waiting at not_before
    DONE = "done"  # every delivery is proven
    FAILED = "failed"  # attempts are used up or the failure is for good; a person may retry
    REJECTED = "rejected"  # its input cannot be processed, and the reason says why
    CANCELLED = "cancelled"  # a person stopped it
    SUPERSEDED = "superseded"  # a newer generation or route took its place before it was done

    @property
    def final(self) -> bool:
        """Whether nothing but a person moves the job on from here."""
        return self in {
            State.DONE,
            State.FAILED,
            State.REJECTED,
            State.CANCELLED,
            State.SUPERSEDED,
        }


class Event(StrEnum):
    """What can happen to a job."""

    ADMIT = "admit"  # the throttler: there is room
    CLAIM = "claim"  # the dispatcher: a slot is free and the lease is taken
    FINISH = "finish"  # the observer: the stage's output is accepted; the next stage follows
    COMPLETE = "complete"  # the observer: the last delivery is proven
    RETRY = "retry"  # the observer: the attempt failed and another may succeed
    RESUME = "resume"  # the observer: the backoff is over
    RESCUE = "rescue"  # the observer: the lease lapsed, or its dispatcher is gone
    FAIL = "fail"  # the observer: attempts used up, or a failure for good
    REJECT = "reject"  # the observer: the input cannot be processed
    CANCEL = "cancel"  # a person
    SUPERSEDE = "supersede"  # the observer: a newer generation is complete; a person: rerouted
    RESTORE = "restore"  # the observer: what took its place has come to nothing
    RERUN = "rerun"  # a person: run the same input again
    PRIORITIZE = "prioritize"  # a person: it has another priority class, and waits on
    REROUTE = "reroute"  # a person: run it as the present routes say, by another model perhaps


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.WAITING, Event.ADMIT): State.WAITING,
    (State.WAITING, Event.CLAIM): State.RUNNING,
    (State.RUNNING, Event.FINISH): State.WAITING,
    (State.WAITING, Event.COMPLETE): State.DONE,
    (State.RUNNING, Event.RETRY): State.BACKOFF,
    (State.BACKOFF, Event.RESUME): State.WAITING,
    (State.RUNNING, Event.RESCUE): State.WAITING,
    (State.RUNNING, Event.FAIL): State.FAILED,
    (State.WAITING, Event.FAIL): State.FAILED,
    (State.WAITING, Event.REJECT): State.REJECTED,
    (State.RUNNING, Event.REJECT): State.REJECTED,
    (State.WAITING, Event.CANCEL): State.CANCELLED,
    (State.RUNNING, Event.CANCEL): State.CANCELLED,
    (State.BACKOFF, Event.CANCEL): State.CANCELLED,
    (State.WAITING, Event.SUPERSEDE): State.SUPERSEDED,
    (State.RUNNING, Event.SUPERSEDE): State.SUPERSEDED,
    (State.BACKOFF, Event.SUPERSEDE): State.SUPERSEDED,
    (State.SUPERSEDED, Event.RESTORE): State.WAITING,
    (State.DONE, Event.RERUN): State.WAITING,
    (State.FAILED, Event.RERUN): State.WAITING,
    (State.REJECTED, Event.RERUN): State.WAITING,
    (State.CANCELLED, Event.RERUN): State.WAITING,
    (State.WAITING, Event.PRIORITIZE): State.WAITING,
    (State.BACKOFF, Event.PRIORITIZE): State.BACKOFF,
    (State.DONE, Event.REROUTE): State.WAITING,
    (State.FAILED, Event.REROUTE): State.WAITING,
    (State.REJECTED, Event.REROUTE): State.WAITING,
    (State.CANCELLED, Event.REROUTE): State.WAITING,
}


# Events that belong to a place on the route; all others may happen at every stage.
STAGES_OF: dict[Event, tuple[Stage, ...]] = {
    Event.ADMIT: (Stage.ADMISSION,),
    Event.CLAIM: WORKER_STAGES,
    Event.COMPLETE: (Stage.DELIVER,),
    Event.PRIORITIZE: (Stage.ADMISSION, *WORKER_STAGES),
}


def next_state(state: State, event: Event) -> State | None:
    """Return the state that an event leads to, or None where it may not happen."""
    return TRANSITIONS.get((state, event))


class Status(StrEnum):
    """What the outside is told: stage and state in one word."""

    RECEIVING = "receiving"
    WAITING = "waiting"
    RUNNING = "running"
    DELIVERING = "delivering"
    DONE = "done"
    FAILED = "failed"
    REJECTED = "rejected"


def status_of(stage: Stage, state: State) -> Status:
    """Return the public status of a job at a stage in a state."""
    if state is State.DONE:
        return Status.DONE
    if state is State.FAILED or state is State.CANCELLED:
        return Status.FAILED
    if state is State.REJECTED or state is State.SUPERSEDED:
        return Status.REJECTED
    if stage is Stage.DELIVER:
        return Status.DELIVERING
    waits = stage is Stage.ADMISSION or (stage is Stage.PREDICTION and state is not State.RUNNING)
    return Status.WAITING if waits else Status.RUNNING


def standing_of(status: str, state: str) -> str:
    """Return what lists call a job: its status, or that it was cancelled or superseded.

    The status of a cancelled one is ``failed``, though nothing has gone wrong with it.
    """
    return state if state in {State.CANCELLED, State.SUPERSEDED} else status


def progress_of(stage: Stage, state: State, fraction: float = 0.0) -> float:
    """Return the share of the route that is behind a job, 0 to 1.

    Parameters
    ----------
    fraction : float
        The share of its present stage that is behind it.
    """
    if state is State.DONE:
        return 1.0
    return (list(Stage).index(stage) + fraction) / len(Stage)
