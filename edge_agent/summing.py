"""A device's way through a secure sum: when its steps are taken, what follows them, and how long it waits.

Workflow of a step: a trainer computes it -> ``DeviceSums`` signs, seals and stores its message -> ``StepTaken`` -> it
is sent (``sending``) -> what follows is stored -> ``Followed`` -> the next step.

Laws: what a step leaves is on the disk before its event is returned; a step that is no longer the session's says
nothing; once the session has left a sum, what the sum kept is wiped. The rules are ``core.summing``'s. A device
without the parts for sums refuses work that asks for one, and is never asked for anything else here.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from edge_agent.core.session import SUM_PHASES
from edge_agent.core.summing import Followed, GivenUp, StepFailed, StepTaken, TrainedForSum
from host.logs import event as log
from protocol.errors import EdgefoldError, LocalProtocolError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.adapters.device_folder import DeviceFolder
    from edge_agent.core.session import Job, SessionState
    from edge_agent.durable_session import DurableSession
    from edge_agent.sums import DeviceSums
    from edge_agent.trainer_runs import TrainerRuns
    from protocol.jobs import SumStepResult
    from protocol.messages import Work
    from protocol.sum_round import SumNext, SumStepName, SumTerms

__all__ = ["Summing"]


class Summing:
    """Takes the session's steps."""

    def __init__(
        self,
        sums: DeviceSums | None,
        *,
        session: DurableSession,
        folder: DeviceFolder,
        runs: TrainerRuns,
        clock: Callable[[], float],
    ) -> None:
        """Take no step yet.

        Args:
            sums: the parts for it; without them no sum is taken part in.
            session: which step is to be taken.
            folder: the agent's own folder, with the work.
            runs: holds the running trainer.
            clock: seconds that only go up.
        """
        self._sums, self._session, self._folder, self._runs, self._clock = sums, session, folder, runs, clock
        self._heard_s = clock()

    def why_not(self, terms: SumTerms | None) -> str | None:
        """Return why this device takes no part in a round on these terms, or None if it does."""
        if self._sums is not None:
            return self._sums.why_not(terms)
        return None if terms is None else "this agent takes part in no secure sum"

    def begin(self, work: Work, *, n_examples: int) -> TrainedForSum:
        """Keep the delta that was just trained for the sum that ``work`` asks for."""
        self._parts().begin(work, self._folder.scratch, n_examples)
        return TrainedForSum()

    def take(self, name: SumStepName) -> StepTaken | None:
        """Have a trainer compute a step; return that it is taken if it was so before a crash."""
        sums, job = self._parts(), self._session.state.job
        if job is None:
            raise LocalProtocolError("a step of no round")
        on_end = partial(self._on_end, job, name)
        try:
            if (update_id := sums.taken(job, name)) is not None:
                return StepTaken(update_id=update_id)
            self._folder.clear_scratch()
            step_job = sums.job(self._folder.load_work(), name, self._folder.scratch)
        except StorageError as error:
            self._runs.fail(error, on_end)
        else:
            self._runs.start(partial(sums.start, step_job), on_end)
        return None

    def envelope(self, update_id: bytes) -> bytes:
        """Return a step's message, to be sent.

        Raises:
            StorageError: it is missing.
        """
        return self._parts().envelope(update_id)

    def follow(self, following: SumNext) -> Followed | None:
        """Keep what the service sent for the next step, unless it is of another sum, or of a step that was taken.

        Returns:
            What it means to the session: the first answer counts.
        """
        event = Followed(task=following.task, round=following.round, step=following.step)
        if self._sums is None or not self._session.would_move(event):
            return None
        self._sums.take_next(following)
        return event

    def wait(self) -> None:
        """Begin to wait for what follows."""
        self._heard_s = self._clock()

    def give_up(self) -> GivenUp | None:
        """Return that this sum is over for the device, if nothing came for too long."""
        if self._session.state.phase != "waiting" or self._sums is None:
            return None
        silent_s = self._clock() - self._heard_s
        if silent_s <= self._sums.settings.give_up_s:
            return None
        log("sum-given-up", silent_s=round(silent_s, 1))
        return GivenUp()

    def leave(self, before: SessionState | None) -> None:
        """Wipe what a sum kept if the session is in none any more.

        Args:
            before: where the session was; None at the start of the agent, which may have left one by a crash.
        """
        has_left = self._session.state.phase not in SUM_PHASES and (before is None or before.phase in SUM_PHASES)
        if self._sums is not None and has_left:
            self._sums.folder.wipe()

    def _on_end(
        self, job: Job, name: SumStepName, outcome: SumStepResult | EdgefoldError
    ) -> StepTaken | StepFailed | None:
        state = self._session.state
        is_current = state.job is not None and (state.job.task, state.job.round) == (job.task, job.round)
        if state.phase != "summing" or state.sum_step != name or not is_current:
            return None
        self._runs.stop()
        if isinstance(outcome, EdgefoldError):
            log("sum-step-failed", task=job.task, round=job.round, step=name, error=str(outcome))
            return StepFailed()
        update_id = self._parts().finish(self._folder.load_work(), name, self._folder.scratch)
        self._folder.clear_scratch()  # it had this step's secrets
        log("sum-step-taken", task=job.task, round=job.round, step=name, wall_s=outcome.wall_s)
        return StepTaken(update_id=update_id)

    def _parts(self) -> DeviceSums:
        if self._sums is None:  # such work is refused
            raise LocalProtocolError("a secure sum without the parts for it")
        return self._sums
