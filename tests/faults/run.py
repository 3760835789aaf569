"""Cuts the power again and again, and looks after each time whether anything was lost, halved or said twice."""

from __future__ import annotations

import os
import random
import signal
import traceback
from collections import defaultdict
from typing import TYPE_CHECKING

from edge_agent.adapters.conduct_record import read_conduct
from edge_agent.adapters.device_folder import read_state
from edge_agent.adapters.fetched_bundles import whole_folders
from host.bundle_folder import open_bundle
from protocol.bounds import MAX_MESSAGE_BYTES
from protocol.messages import unpack_envelope
from tests.attacks.hostile_bundles import CONTENT, make_bundle, vouch
from tests.faults.device import kept_of, live
from tests.faults.power import PowerCut
from tests.faults.world import TASK, read_journal

if TYPE_CHECKING:
    from pathlib import Path

_N_BUNDLES = 3
_MOST_STEPS = 260  # of some three rounds, with a bundle


def make_shelf(folder: Path) -> Path:
    """Write the bundles that the task goes through."""
    folder.mkdir()
    for number in range(_N_BUNDLES):
        made = folder / "made"
        make_bundle(made)
        (made / "weights.bin").write_bytes(bytes([number]) * len(CONTENT["weights.bin"]) * 150)
        made.rename(folder / vouch(made))
    return folder


def run(folder: Path, *, kills: int, seed: int) -> dict[str, int]:
    """Kill a device ``kills`` times; return figures of what happened.

    Raises:
        AssertionError: a promise was broken; the text says which kill and which.
    """
    shelf, here, journal = make_shelf(folder / "shelf"), folder / "device", folder / "journal"
    here.mkdir()
    rng = random.Random(seed)
    n_done = n_steps = 0
    while n_done < kills:
        at = rng.randrange(1, _MOST_STEPS)
        status = _in_child(here, journal, shelf, at=at, kept_fraction=rng.random(), n_rounds=None)
        assert os.WIFSIGNALED(status), f"kill {n_done} at step {at}: the device ended by itself: {_last_line(folder)}"
        assert os.WTERMSIG(status) == signal.SIGKILL, f"kill {n_done} at step {at}: it ended by {os.WTERMSIG(status)}"
        n_done, n_steps = n_done + 1, n_steps + at
        check(here, journal, f"kill {n_done} at step {at}, seed {seed}")
    status = _in_child(here, journal, shelf, at=None, kept_fraction=1.0, n_rounds=4)
    assert status == 0, "with power it did not finish four more rounds"
    check(here, journal, "the end")
    lines = read_journal(journal)
    n_sent = sum(line.what == "update" for line in lines)
    n_folded = sum(line.what == "folded" for line in lines)
    return {"kills": n_done, "steps": n_steps, "rounds": n_folded, "updates_sent": n_sent}


def check(here: Path, journal: Path, when: str) -> None:
    """Look at what the device left and said.

    Raises:
        AssertionError: it is not a valid state.
    """
    for path in whole_folders(here / "bundles"):
        open_bundle(path, expected_id=path.name)  # a half bundle is an error
    state = read_state(here / "state")  # a half state is an error
    read_conduct(here / "state")
    lines = read_journal(journal)
    folded = {line.round: line for line in lines if line.what == "folded"}
    sent: dict[int, set[tuple[str, str]]] = defaultdict(set)
    made: dict[str, set[str]] = defaultdict(set)
    for line in lines:
        if line.what == "update":
            sent[line.round].add((line.update_id, line.digest))
            made[line.encapsulated].add(line.digest)
    assert len({line.key for line in lines if line.key}) <= 1, f"{when}: the device has another key"
    assert sorted(folded) == list(range(1, len(folded) + 1)), f"{when}: a round is missing"
    for number, messages in sent.items():
        assert len(messages) == 1, f"{when}: round {number} was sent as {len(messages)} different updates"
        assert number in folded, f"{when}: the update of round {number} was lost"
    for digests in made.values():
        assert len(digests) == 1, f"{when}: two messages were sealed with one key"
    _check_left(here, state.kept_of.get(TASK), state.done.get(TASK, 0), folded, when)
    if state.update_id is not None and state.phase == "sending":
        envelope = (here / "state" / f"outbox-{state.update_id.hex()}.cbor").read_bytes()
        assert len(envelope) <= MAX_MESSAGE_BYTES
        unpack_envelope(envelope)


def _check_left(here: Path, kept: bytes | None, done: int, folded: dict[int, object], when: str) -> None:
    """The personal part of the last receipted round is here, whole, and of that very round."""
    if kept is None:
        return
    rounds = [number for number, line in folded.items() if line.update_id == kept.hex()]  # type: ignore[attr-defined]
    assert rounds, f"{when}: it keeps the part of an update that was never folded"
    assert rounds[0] >= done or done - rounds[0] <= 1, f"{when}: the part is of round {rounds[0]}, done is {done}"
    for name in (f"kept-{kept.hex()}.f32", f"residual-{kept.hex()}.f32"):
        data = (here / "state" / name).read_bytes()
        assert data == kept_of(rounds[0]), f"{when}: {name} is not what round {rounds[0]} left"


def _last_line(folder: Path) -> str:
    return ((folder / "log").read_text().strip().splitlines() or ["it said nothing"])[-1]


def _in_child(
    here: Path, journal: Path, shelf: Path, *, at: int | None, kept_fraction: float, n_rounds: int | None
) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(here.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
            PowerCut(here, at=at, kept_fraction=kept_fraction)
            live(here, journal=journal, shelf=shelf, n_rounds=n_rounds)
        except BaseException:  # noqa: BLE001 - a child must not go on as its parent
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]
