"""What an agent does next: a table of (phase, event) -> step, over one immutable state.

    idle      announced, and not done yet         -> joining    send join
    joining   work                                -> training   start the trainer
    joining   declined                            -> idle
    training  trained                             -> sending    send update
    training  failed                              -> training   again, or idle after too many attempts
    joining, training   a later round is announced, or the task ended -> idle or joining    stop the trainer
    training  a later round, and work of this one is still welcome    -> training    (of an asynchronous task)
    sending   receipt                             -> idle       whatever the receipt says

The steps of a secure sum, phases summing and waiting, are in ``core.summing``.

Laws: a pair that is not in the table changes nothing (peers may say anything at any time); a state is saved before its
actions are done, so after a crash the same actions are done again, and each may be done twice without harm; rounds of a
task only go up, so an old announcement cannot make a device repeat one, also where rounds are buffers and a device
joins whichever is open after each of its updates. Does not know files, links or clocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

from edge_agent.core.heard import Heard  # noqa: TC001 - structure() resolves the annotations
from edge_agent.core.summing import (
    FOLLOWS,
    LAST,
    Followed,
    GivenUp,
    SendStep,
    StepFailed,
    StepTaken,
    TakeStep,
    TrainedForSum,
)
from protocol.fields import Bytes, Hex, Length, Name, Range
from protocol.sum_round import SumStepName  # noqa: TC001 - structure() resolves the annotations

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "SUM_PHASES",
    "Action",
    "Announced",
    "Declined",
    "Event",
    "Job",
    "Phase",
    "Receipted",
    "Resume",
    "SendJoin",
    "SendUpdate",
    "SessionState",
    "StartTraining",
    "StopTraining",
    "Trained",
    "TrainingFailed",
    "WorkArrived",
    "step",
]

Phase: TypeAlias = Literal["idle", "joining", "training", "sending", "summing", "waiting"]
SUM_PHASES: Final[frozenset[Phase]] = frozenset({"summing", "waiting"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The round that the device works on."""

    task: Name
    round: Annotated[int, Range(1, 2**31)]
    bundle_id: Hex
    n_failures: Annotated[int, Range(0, 1000)] = 0
    seal_adapter: bool = False  # its joins bring a key


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionState:
    """All that an agent must remember over a restart.

    Attributes:
        phase: where it is in its round.
        job: that round; None exactly when idle.
        update_id: of the sealed update that waits in the outbox, or of the step's message; set when sending or waiting.
        sum_step: the step of a secure sum that is taken or waits; set exactly when summing or waiting.
        done: the last round of each task that the device is through with.
        residual_of: for each task, the update whose encoding left the residual to add next (error feedback).
        kept_of: for each task, the update that was accepted last: what the device kept of its own then, if anything.
        heard: the latest round and version of each task that the service spoke of: nothing older is believed.
    """

    phase: Phase = "idle"
    job: Job | None = None
    update_id: Annotated[bytes, Bytes(16)] | None = None
    sum_step: SumStepName | None = None
    done: Annotated[dict[Name, Annotated[int, Range(0, 2**31)]], Length(0, 10_000)] = field(default_factory=dict)
    residual_of: Annotated[dict[Name, Annotated[bytes, Bytes(16)]], Length(0, 10_000)] = field(default_factory=dict)
    kept_of: Annotated[dict[Name, Annotated[bytes, Bytes(16)]], Length(0, 10_000)] = field(default_factory=dict)
    heard: Annotated[dict[Name, Heard], Length(0, 10_000)] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """The service says that ``round`` of ``task`` is open, or that the task is over.

    ``oldest_round`` is of an asynchronous task: work since then goes on, whatever opens meanwhile.
    """

    task: str
    round: int
    bundle_id: str
    is_open: bool
    seal_adapter: bool = False
    oldest_round: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkArrived:
    """The work for a round is stored."""

    task: str
    round: int
    bundle_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Declined:
    """The service does not want this device in a round."""

    task: str
    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The trainer is done and its sealed update is stored in the outbox."""

    update_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFailed:
    """The trainer ended without a result."""

    max_attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipted:
    """The service answered an update."""

    update_id: bytes
    is_accepted: bool


@dataclass(frozen=True, slots=True)
class Resume:
    """The agent has just started from a saved state, or its link came up: do again what was being done."""


Event: TypeAlias = (
    Announced
    | WorkArrived
    | Declined
    | Trained
    | TrainingFailed
    | Receipted
    | Resume
    | TrainedForSum
    | StepTaken
    | StepFailed
    | Followed
    | GivenUp
)


@dataclass(frozen=True, slots=True)
class SendJoin:
    """Publish a join for this job, again and again until answered."""

    job: Job


@dataclass(frozen=True, slots=True)
class StartTraining:
    """Start a trainer for this job unless it runs."""

    job: Job


@dataclass(frozen=True, slots=True)
class StopTraining:
    """End the trainer; its work is worthless now."""


@dataclass(frozen=True, slots=True)
class SendUpdate:
    """Publish the outbox's update, again and again until receipted."""

    update_id: bytes


Action: TypeAlias = SendJoin | StartTraining | StopTraining | SendUpdate | TakeStep | SendStep
Outcome: TypeAlias = "tuple[SessionState, tuple[Action, ...]]"


def step(state: SessionState, event: Event) -> Outcome:
    """Return the next state and what to do once it is saved; the same state if the event means nothing."""
    handler = _TABLE.get((state.phase, type(event)))
    return (state, ()) if handler is None else handler(state, event)


def _announced_when_idle(state: SessionState, event: Announced) -> Outcome:
    if not event.is_open or event.round <= state.done.get(event.task, 0):
        return state, ()
    job = Job(task=event.task, round=event.round, bundle_id=event.bundle_id, seal_adapter=event.seal_adapter)
    return replace(state, phase="joining", job=job), (SendJoin(job),)


def _announced_when_busy(state: SessionState, event: Announced) -> Outcome:
    job = _job(state)
    if event.task != job.task or event.round < job.round or (event.is_open and event.round == job.round):
        return state, ()
    is_welcome = event.is_open and event.oldest_round is not None and job.round >= event.oldest_round
    if state.phase == "training" and is_welcome:
        return state, ()
    # The round that we work on has closed: drop it. An update in the outbox is never dropped this way.
    idle = _through_with(state, job)
    stop: tuple[Action, ...] = (StopTraining(),) if state.phase in ("training", "summing") else ()
    after, actions = _announced_when_idle(idle, event)
    return after, (*stop, *actions)


def _work(state: SessionState, event: WorkArrived) -> Outcome:
    job = _job(state)
    if (event.task, event.round, event.bundle_id) != (job.task, job.round, job.bundle_id):
        return state, ()
    return replace(state, phase="training"), (StartTraining(job),)


def _declined(state: SessionState, event: Declined) -> Outcome:
    job = _job(state)
    if (event.task, event.round) != (job.task, job.round):
        return state, ()
    return _through_with(state, job), ()


def _trained(state: SessionState, event: Trained) -> Outcome:
    return replace(state, phase="sending", update_id=event.update_id), (SendUpdate(event.update_id),)


def _failed(state: SessionState, event: TrainingFailed) -> Outcome:
    job = replace(_job(state), n_failures=_job(state).n_failures + 1)
    if job.n_failures >= event.max_attempts:
        return _through_with(state, job), ()
    return replace(state, job=job), (StartTraining(job),)


def _receipted(state: SessionState, event: Receipted) -> Outcome:
    if event.update_id != state.update_id:
        return state, ()
    job = _job(state)
    after = _through_with(state, job)
    if event.is_accepted:
        residual_of = {**state.residual_of, job.task: event.update_id}
        after = replace(after, residual_of=residual_of, kept_of={**state.kept_of, job.task: event.update_id})
    return after, ()


def _resume(state: SessionState, _event: Resume) -> Outcome:
    job = _job(state)
    match state.phase:
        case "joining":
            return state, (SendJoin(job),)
        case "training":
            return state, (StartTraining(job),)
        case "summing":
            return state, (TakeStep(_sum_step(state)),)
        case "waiting":
            return state, (SendStep(state.update_id or b""),)
        case _:
            return state, (SendUpdate(state.update_id or b""),)


def _trained_for_sum(state: SessionState, _event: TrainedForSum) -> Outcome:
    return replace(state, phase="summing", sum_step="adverts"), (TakeStep("adverts"),)


def _step_taken(state: SessionState, event: StepTaken) -> Outcome:
    return replace(state, phase="waiting", update_id=event.update_id), (SendStep(event.update_id),)


def _over(state: SessionState, _event: StepFailed | GivenUp) -> Outcome:
    return _through_with(state, _job(state)), ()


def _step_receipted(state: SessionState, event: Receipted) -> Outcome:
    if event.update_id != state.update_id:
        return state, ()
    if not event.is_accepted or state.sum_step == LAST:
        return _through_with(state, _job(state)), ()
    return state, (SendStep(event.update_id, is_receipted=True),)


def _followed(state: SessionState, event: Followed) -> Outcome:
    job, step = _job(state), _sum_step(state)
    if (event.task, event.round) != (job.task, job.round) or step == LAST or FOLLOWS[step][0] != event.step:
        return state, ()
    following = FOLLOWS[step][1]
    return replace(state, phase="summing", sum_step=following, update_id=None), (TakeStep(following),)


def _sum_step(state: SessionState) -> SumStepName:
    if state.sum_step is None:  # the table never leads here
        raise ValueError(f"phase {state.phase} without a step")
    return state.sum_step


def _job(state: SessionState) -> Job:
    if state.job is None:  # the table never leads here: a state that is not idle has a job
        raise ValueError(f"phase {state.phase} without a job")
    return state.job


def _through_with(state: SessionState, job: Job) -> SessionState:
    done = {**state.done, job.task: max(job.round, state.done.get(job.task, 0))}
    return replace(state, phase="idle", job=None, update_id=None, sum_step=None, done=done)


_TABLE: Final[Mapping[tuple[Phase, type], Callable[..., Outcome]]] = {
    ("idle", Announced): _announced_when_idle,
    ("joining", Announced): _announced_when_busy,
    ("training", Announced): _announced_when_busy,
    ("joining", WorkArrived): _work,
    ("joining", Declined): _declined,
    ("training", Trained): _trained,
    ("training", TrainingFailed): _failed,
    ("sending", Receipted): _receipted,
    ("joining", Resume): _resume,
    ("training", Resume): _resume,
    ("sending", Resume): _resume,
    ("training", TrainedForSum): _trained_for_sum,
    ("summing", StepTaken): _step_taken,
    ("summing", StepFailed): _over,
    ("summing", Announced): _announced_when_busy,
    ("summing", Resume): _resume,
    ("waiting", Receipted): _step_receipted,
    ("waiting", Followed): _followed,
    ("waiting", GivenUp): _over,
    ("waiting", Announced): _announced_when_busy,
    ("waiting", Resume): _resume,
}
