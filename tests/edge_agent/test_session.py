from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.session import (
    Announced,
    Declined,
    Job,
    Receipted,
    Resume,
    SendJoin,
    SendUpdate,
    SessionState,
    StartTraining,
    StopTraining,
    Trained,
    TrainingFailed,
    WorkArrived,
    step,
)

BUNDLE = "b" * 64
UPDATE = bytes(16)
JOB = Job(task="t", round=3, bundle_id=BUNDLE)
IDLE = SessionState()
JOINING = SessionState(phase="joining", job=JOB)
TRAINING = SessionState(phase="training", job=JOB)
SENDING = SessionState(phase="sending", job=JOB, update_id=UPDATE)


def announced(round_: int, *, is_open: bool = True, task: str = "t") -> Announced:
    return Announced(task=task, round=round_, bundle_id=BUNDLE, is_open=is_open)


def test_an_announced_round_is_joined() -> None:
    state, actions = step(IDLE, announced(3))
    assert state == JOINING
    assert actions == (SendJoin(JOB),)


def test_work_of_an_asynchronous_task_goes_on_while_it_is_welcome() -> None:
    later = replace(announced(7), oldest_round=3)
    assert step(TRAINING, later) == (TRAINING, ())
    assert step(JOINING, later)[0].job == replace(JOB, round=7)  # no work yet: it takes the newest
    state, actions = step(TRAINING, replace(announced(8), oldest_round=4))
    assert state.job == replace(JOB, round=8)
    assert actions[0] == StopTraining()
    assert step(TRAINING, replace(announced(7, is_open=False), oldest_round=3))[0].phase == "idle"


def test_a_device_joins_the_newest_buffer_after_each_update() -> None:
    sending, _ = step(TRAINING, Trained(update_id=UPDATE))
    idle, _ = step(sending, Receipted(update_id=UPDATE, is_accepted=True))
    state, actions = step(idle, replace(announced(7), oldest_round=2))
    assert (state.phase, actions) == ("joining", (SendJoin(replace(JOB, round=7)),))
    assert step(idle, replace(announced(3), oldest_round=2)) == (idle, ())  # it has worked on that one


def test_work_for_the_joined_round_starts_the_trainer() -> None:
    state, actions = step(JOINING, WorkArrived(task="t", round=3, bundle_id=BUNDLE))
    assert state == TRAINING
    assert actions == (StartTraining(JOB),)


def test_work_for_another_round_changes_nothing() -> None:
    assert step(JOINING, WorkArrived(task="t", round=4, bundle_id=BUNDLE)) == (JOINING, ())


def test_a_trained_update_is_sent() -> None:
    state, actions = step(TRAINING, Trained(update_id=UPDATE))
    assert state == SENDING
    assert actions == (SendUpdate(UPDATE),)


def test_an_accepted_update_ends_the_round_and_keeps_its_residual() -> None:
    state, actions = step(SENDING, Receipted(update_id=UPDATE, is_accepted=True))
    assert state == SessionState(done={"t": 3}, residual_of={"t": UPDATE}, kept_of={"t": UPDATE})
    assert actions == ()


def test_a_refused_update_ends_the_round_and_keeps_the_older_residual() -> None:
    older = replace(SENDING, residual_of={"t": b"o" * 16})
    state, _ = step(older, Receipted(update_id=UPDATE, is_accepted=False))
    assert state == SessionState(done={"t": 3}, residual_of={"t": b"o" * 16})


def test_two_tasks_on_one_bundle_have_residuals_of_their_own() -> None:
    other = replace(SENDING, residual_of={"u": b"o" * 16})
    state, _ = step(other, Receipted(update_id=UPDATE, is_accepted=True))
    assert state.residual_of == {"u": b"o" * 16, "t": UPDATE}


def test_a_receipt_for_another_update_changes_nothing() -> None:
    assert step(SENDING, Receipted(update_id=b"x" * 16, is_accepted=True)) == (SENDING, ())


def test_an_old_announcement_is_not_joined() -> None:
    done = SessionState(done={"t": 3})
    assert step(done, announced(3)) == (done, ())
    assert step(done, announced(2)) == (done, ())


def test_a_later_round_stops_the_trainer_and_is_joined() -> None:
    state, actions = step(TRAINING, announced(4))
    assert state == SessionState(phase="joining", job=replace(JOB, round=4), done={"t": 3})
    assert actions == (StopTraining(), SendJoin(replace(JOB, round=4)))


def test_a_later_round_never_drops_an_update_in_the_outbox() -> None:
    assert step(SENDING, announced(4)) == (SENDING, ())


def test_the_end_of_the_task_stops_the_trainer() -> None:
    state, actions = step(TRAINING, announced(3, is_open=False))
    assert state == SessionState(done={"t": 3})
    assert actions == (StopTraining(),)


def test_another_tasks_round_waits_until_this_one_is_done() -> None:
    assert step(TRAINING, announced(9, task="other")) == (TRAINING, ())


def test_a_decline_ends_the_round() -> None:
    assert step(JOINING, Declined(task="t", round=3)) == (SessionState(done={"t": 3}), ())


def test_a_failed_training_is_tried_again_and_then_given_up() -> None:
    state, actions = step(TRAINING, TrainingFailed(max_attempts=2))
    assert actions == (StartTraining(replace(JOB, n_failures=1)),)
    state, actions = step(state, TrainingFailed(max_attempts=2))
    assert state == SessionState(done={"t": 3})
    assert actions == ()


def test_a_restart_does_again_what_was_being_done() -> None:
    assert step(IDLE, Resume()) == (IDLE, ())
    assert step(JOINING, Resume()) == (JOINING, (SendJoin(JOB),))
    assert step(TRAINING, Resume()) == (TRAINING, (StartTraining(JOB),))
    assert step(SENDING, Resume()) == (SENDING, (SendUpdate(UPDATE),))


rounds = st.integers(1, 5)
tasks = st.sampled_from(["t", "u"])
update_ids = st.sampled_from([UPDATE, b"1" * 16])
events = st.one_of(
    st.builds(Announced, task=tasks, round=rounds, bundle_id=st.just(BUNDLE), is_open=st.booleans()),
    st.builds(WorkArrived, task=tasks, round=rounds, bundle_id=st.just(BUNDLE)),
    st.builds(Declined, task=tasks, round=rounds),
    st.builds(Trained, update_id=update_ids),
    st.builds(TrainingFailed, max_attempts=st.integers(1, 3)),
    st.builds(Receipted, update_id=update_ids, is_accepted=st.booleans()),
    st.just(Resume()),
)


@given(st.lists(events, max_size=60))
def test_whatever_peers_say_the_state_stays_whole_and_rounds_only_go_up(said: list[object]) -> None:
    state = IDLE
    for event in said:
        before = state
        state, _ = step(state, event)  # type: ignore[arg-type]
        assert (state.job is None) == (state.phase == "idle")
        assert (state.update_id is not None) == (state.phase == "sending")
        assert all(state.done.get(task, 0) >= round_ for task, round_ in before.done.items())
        if state.job is not None and state.job != before.job:
            assert state.job.round > before.done.get(state.job.task, 0) or state.job.n_failures
