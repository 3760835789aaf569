"""A whole agent sends a large update in chunks, over breaks, restarts, old services and brokers with small packets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from edge_agent.config import BrokerSettings
from edge_agent.core.session import SessionState
from edge_agent.core.uploading import WINDOW, Uploading
from protocol import codec
from protocol.messages import Update, unpack_content, unpack_envelope
from protocol.sealing import binding
from protocol.signing import open_envelope
from protocol.uploads import Chunk, Upload, Uploaded, check_chunk, pack_have, whole
from tests.edge_agent.rig import DEVICE, FLEET, TASK, Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

N_VALUES = 10_000  # 40 kB as float32: eleven chunks


class Large(Rig):
    """A device whose updates need chunks, and a service that keeps them."""

    broker_settings = BrokerSettings(url="mqtt://127.0.0.1", chunk_above_kb=8, chunk_kb=4)

    def __init__(self, folder: Path, *, max_packet_bytes: int | None = None) -> None:
        self.chunks: dict[int, bytes] = {}
        super().__init__(folder, max_packet_bytes=max_packet_bytes)

    def start(self) -> None:
        super().start()
        self.trainer.n_values = N_VALUES

    def to_sending(self) -> Upload:
        """Play a round to the first manifest."""
        self.say(self.announce(1))
        self.say(self.work(1))
        self.trainer.finish()
        self.turns()
        return self.heard(Upload)[-1]

    def take(self, *, lost: int = 0) -> int:
        """Keep all chunks that came but the last ``lost``; return how many are there."""
        upload, came = self.heard(Upload)[-1], self.heard(Chunk)
        for chunk in came[: len(came) - lost]:
            check_chunk(upload, chunk)
            self.chunks[chunk.index] = chunk.data
        return len(self.chunks)

    def answer(self) -> None:
        """Say what is there."""
        upload = self.heard(Upload)[-1]
        have = pack_have(self.chunks, upload.n_chunks)
        self.say(Uploaded(update_id=upload.update_id, status="open", have=have))

    def play_on(self) -> None:
        """Take chunks and answer until all are there."""
        n_chunks = self.heard(Upload)[-1].n_chunks
        for _ in range(3 * n_chunks):
            self.answer()
            if self.take() == n_chunks:
                return
        pytest.fail(f"{len(self.chunks)} of {n_chunks} chunks came")

    def update(self) -> Update:
        """Return what the chunks are."""
        upload = self.heard(Upload)[-1]
        data = whole(upload, [self.chunks[index] for index in range(upload.n_chunks)])
        body = open_envelope(unpack_envelope(data), fleet=FLEET, key=self.device_key.public)
        assert isinstance(body, Update)
        return body


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Large]:
    one = Large(tmp_path)
    yield one
    one.device_folder.close()


def test_a_large_update_comes_whole_a_few_chunks_at_a_time(rig: Large) -> None:
    upload = rig.to_sending()
    assert rig.heard(Update) == []
    assert upload.n_chunks == 11
    rig.answer()
    assert [chunk.index for chunk in rig.heard(Chunk)] == list(range(WINDOW))
    rig.play_on()
    update = rig.update()
    assert (upload.task, upload.round, upload.update_id) == (TASK, 1, update.update_id)
    info = binding(
        fleet=FLEET,
        task=TASK,
        bundle_id=update.bundle_id,
        round_=1,
        version=0,
        device=DEVICE,
        update_id=update.update_id,
    )
    content = unpack_content(rig.task_key.open(update.sealed, info=info))
    assert codec.decode(content.delta, n_values=N_VALUES).tolist() == [0.25] * N_VALUES
    assert len(rig.heard(Chunk)) == upload.n_chunks  # each once
    rig.say(rig.receipt(update))
    assert rig.agent.state.phase == "idle"


def test_a_small_update_goes_as_it_always_did(rig: Large) -> None:
    rig.trainer.n_values = 10
    rig.say(rig.announce(1))
    rig.say(rig.work(1))
    rig.trainer.finish()
    rig.turns()
    assert len(rig.heard(Update)) == 1
    assert rig.heard(Upload) == []


def test_after_a_break_the_manifest_is_said_again_and_what_is_missing_sent(rig: Large) -> None:
    rig.to_sending()
    rig.answer()
    rig.take(lost=2)
    rig.broker.drop()
    rig.turns()
    rig.broker.restore()
    rig.turns()
    assert len(rig.heard(Upload)) == 2
    rig.play_on()
    assert rig.update()
    assert len(rig.heard(Chunk)) == rig.heard(Upload)[0].n_chunks + 2


def test_a_restart_goes_on_with_the_same_manifest(rig: Large) -> None:
    first = rig.to_sending()
    rig.answer()
    rig.take()
    rig.crash()
    rig.start()
    rig.turns()
    assert rig.heard(Upload)[-1] == first
    assert len(rig.heard(Upload)) == 2
    rig.play_on()
    assert len(rig.heard(Chunk)) == first.n_chunks
    assert rig.update().update_id == first.update_id


def test_an_answer_of_another_upload_or_after_the_receipt_moves_nothing(rig: Large) -> None:
    upload = rig.to_sending()
    rig.say(Uploaded(update_id=b"o" * 16, status="open"))
    assert rig.heard(Chunk) == []
    rig.play_on()
    n_chunks = len(rig.heard(Chunk))
    rig.say(rig.receipt(rig.update()))
    rig.say(Uploaded(update_id=upload.update_id, status="open"))
    assert len(rig.heard(Chunk)) == n_chunks


def test_a_service_that_forgot_the_upload_is_told_the_manifest_at_once(rig: Large) -> None:
    upload = rig.to_sending()
    rig.say(Uploaded(update_id=upload.update_id, status="unknown"))
    assert len(rig.heard(Upload)) == 2


def test_a_service_without_room_is_asked_later(rig: Large) -> None:
    upload = rig.to_sending()
    rig.say(Uploaded(update_id=upload.update_id, status="busy"))
    assert (len(rig.heard(Upload)), rig.heard(Chunk)) == (1, [])
    rig.later(400.0)
    assert len(rig.heard(Upload)) == 2


def test_a_service_that_knows_no_chunks_gets_the_whole(rig: Large) -> None:
    rig.to_sending()
    for number in range(1, 5):
        rig.later(400.0 * number)
    kinds = [type(body) for body in rig.heard(Upload | Update)]  # type: ignore[arg-type]  # a union will do
    assert kinds == [Upload, Upload, Update, Upload, Update]
    rig.say(rig.receipt(rig.heard(Update)[0]))
    assert rig.agent.state == SessionState(
        done={TASK: 1},
        residual_of={TASK: rig.heard(Update)[0].update_id},
        kept_of={TASK: rig.heard(Update)[0].update_id},
        heard=rig.agent.state.heard,
    )


def test_a_link_that_is_down_is_not_taken_for_a_service_that_knows_no_chunks(rig: Large) -> None:
    rig.to_sending()
    rig.broker.drop()
    rig.turns()
    for number in range(1, 9):
        rig.later(400.0 * number)
    rig.broker.restore()
    rig.turns()
    assert rig.heard(Update) == []
    assert len(rig.heard(Upload)) == 2


def test_a_broker_with_small_packets_gets_chunks_that_fit_and_never_the_whole(tmp_path: Path) -> None:
    rig = Large(tmp_path, max_packet_bytes=8192 + 100)
    rig.to_sending()
    for number in range(1, 5):
        rig.later(400.0 * number)
    assert rig.heard(Update) == []
    assert len(rig.heard(Upload)) == 5
    rig.play_on()
    assert rig.update()
    rig.device_folder.close()


def test_a_message_below_the_bound_that_the_broker_refuses_goes_in_chunks(tmp_path: Path) -> None:
    class Patient(Large):
        broker_settings = BrokerSettings(url="mqtt://127.0.0.1")  # a megabyte at once

    rig = Patient(tmp_path, max_packet_bytes=16_384)
    upload = rig.to_sending()
    assert upload.chunk_bytes == 16_384 - 4096
    rig.play_on()
    assert rig.update()
    rig.device_folder.close()


def test_a_lost_outbox_ends_the_round_also_in_the_middle_of_an_upload(rig: Large) -> None:
    rig.to_sending()
    rig.answer()
    for path in (rig.folder / "state").glob("outbox-*.cbor"):
        path.unlink()
    rig.answer()
    assert rig.agent.state.phase == "idle"
    assert rig.agent.state.residual_of == {}


def test_chunks_are_sent_again_only_when_it_is_asked_anew() -> None:
    upload = Upload(
        task="t", round=1, version=0, bundle_id="b" * 64, update_id=bytes(16), n_bytes=40_960, digest=bytes(32),
        chunk_bytes=4096, hashes=bytes(320),
    )  # fmt: skip
    state = Uploading(upload=upload).answered(Uploaded(update_id=bytes(16), status="open"))
    for index in state.due():
        state = state.sent(index)
    assert state.due() == ()
    state = state.answered(Uploaded(update_id=bytes(16), status="open", have=pack_have({0, 1}, 10)))
    assert state.due() == (4, 5)
    assert replace(state, n_silent=5).asked().due() == (2, 3, 4, 5)
