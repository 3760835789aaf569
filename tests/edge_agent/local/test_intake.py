"""Examples and labels over HTTP, tested before they are kept; drift ends a stretch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from edge_agent.adapters.example_store import ExampleStore
from edge_agent.adapters.personal_part import PersonalFacts, keep_personal, personal_file
from edge_agent.adapters.scores import ScoreState, load_scores
from edge_agent.beside import beside_rounds
from edge_agent.config import AgentConfig
from edge_agent.continual_settings import ContinualSettings
from edge_agent.local import serving
from edge_agent.local.endpoint import ask, read_port
from edge_agent.local.intake import Intake, intake_routes, read_token
from edge_agent.local.loopback_http import Asked, Refusal
from edge_agent.local.scorekeeper import Scorekeeper
from edge_agent.store_settings import StoreSettings
from host.config import load
from protocol.errors import ConfigError
from tests.edge_agent.local.test_serving import Device
from tests.edge_agent.trainer.bag_of_words import knowing, write_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GOOD, BAD = {"text": "good film", "label": 1}, {"text": "bad film", "label": 0}
SETTINGS = StoreSettings(exam_every=4, replay_examples=6)


class Rig:
    """A device whose model knows good from bad, its store and its score."""

    def __init__(self, here: Path) -> None:
        self.device = Device(here)
        self.device.bring(knowing(good=3.0, bad=-3.0), version=1)
        continual = ContinualSettings(drift_warm_up=20, drift_threshold=4.0, exam_s=1.0)
        self.keeper = Scorekeeper(here / "state", self.device.serving, continual, replay_examples=6)
        self.folder = here / "store"
        self.intake = Intake(self.folder, SETTINGS, self.keeper)
        self.here = here

    def scores(self) -> ScoreState:
        return load_scores(self.here / "state")

    def counts(self) -> Any:
        store = ExampleStore(self.folder)
        found = store.counts()
        store.close()
        return found


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(serving, "_LOOK_EVERY_S", 0.0)
    made = Rig(tmp_path)
    yield made
    made.device.folder.close()


def test_each_labelled_example_is_tested_before_it_is_kept(rig: Rig) -> None:
    rig.intake.add([GOOD, BAD, {**GOOD, "label": 0}, {"text": "no label"}], "x")
    scores = rig.scores()
    assert (scores.n_tested, scores.n_right, scores.recent) == (3, 2, "110")
    assert scores.accuracy == pytest.approx(2 / 3)
    assert rig.device.serving.n_answers == 0  # its own questions are not the owner's


def test_a_label_that_comes_later_is_tested_once(rig: Rig) -> None:
    (one,) = rig.intake.add([{"text": "good film"}], "x")
    assert rig.scores().n_tested == 0
    rig.intake.label(one, 1)
    rig.intake.label(one, 0)
    assert (rig.scores().n_tested, rig.scores().n_right) == (1, 1)


def test_a_drift_ends_the_stretch_and_takes_the_personal_part_away(rig: Rig) -> None:
    vector = rig.here / "v"
    vector.write_bytes(knowing(good=0.0).tobytes())
    facts = PersonalFacts(
        task="t",
        bundle_id=rig.device.bundle,
        version=1,
        n_examples=9,
        n_exam=3,
        global_accuracy=0.5,
        personal_accuracy=1.0,
        unix_s=0.0,
    )
    keep_personal(rig.here / "state", vector, facts)
    rig.intake.add([GOOD, BAD] * 15, "x")
    assert rig.counts().stretch == 0
    rig.intake.add([{**GOOD, "label": 0}, {**BAD, "label": 1}] * 8, "x")  # the world has turned round
    counts, scores = rig.counts(), rig.scores()
    assert (counts.stretch, scores.n_drifts) == (1, 1)
    assert counts.n_replay == 6
    assert not personal_file(rig.here / "state", "t").exists()
    assert scores.rows[0] == (1.0,)  # how well it knew the first stretch when that ended


def test_exams_give_forgetting_by_stretch(rig: Rig) -> None:
    rig.intake.add([GOOD, BAD] * 15, "x")
    rig.intake.add([{**GOOD, "label": 0}, {**BAD, "label": 1}] * 20, "x")
    rig.device.bring(knowing(good=-3.0, bad=3.0), version=2)  # what is served has learnt the new world alone
    store = ExampleStore(rig.folder)
    rig.device.label()
    rig.keeper.examine(store)
    store.close()
    progress = rig.scores().progress
    assert progress is not None
    assert (progress.n_stretches, progress.forgetting, progress.backward_transfer) == (2, 1.0, -1.0)


def test_without_a_model_examples_are_kept_all_the_same(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.serving = type(device.serving)(tmp_path / "state", bundles={})
    keeper = Scorekeeper(tmp_path / "state", device.serving, ContinualSettings(), replay_examples=5)
    assert Intake(tmp_path / "store", SETTINGS, keeper).add([GOOD], "x") == [1]
    device.folder.close()


@pytest.mark.parametrize("bearer", [None, "", "wrong", "\u00e9"])
def test_who_has_no_token_writes_nothing(rig: Rig, bearer: str | None) -> None:
    routes = intake_routes(rig.intake, "right")
    for path in ("/examples", "/labels"):
        with pytest.raises(Refusal, match="Bearer"):
            routes["POST", path](Asked(body=GOOD, bearer=bearer))
    assert rig.counts().n_train == 0


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/examples", 5, "1 to 1000"),
        ("/examples", {"examples": []}, "1 to 1000"),
        ("/examples", {"examples": [GOOD] * 1001}, "1 to 1000"),
        ("/examples", {"examples": [5]}, "an object"),
        ("/examples", {"text": "x" * 2_000_000}, "more than"),
        ("/labels", {"id": "1", "label": 1}, "number under 'id'"),
        ("/labels", {"id": 2**63, "label": 1}, "number under 'id'"),
        ("/labels", {"id": 1, "label": "x"}, "integer"),
        ("/labels", {"id": 1, "label": True}, "integer"),
        ("/labels", {"id": 99, "label": 1}, "no example 99"),
    ],
    ids=range(10),
)
def test_a_hostile_example_or_label_is_refused(rig: Rig, path: str, body: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        intake_routes(rig.intake, "t")["POST", path](Asked(body=body, bearer="t"))
    assert rig.counts().n_train == 0


def test_the_local_process_takes_examples_from_http_and_from_files(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    (tmp_path / "agent.toml").write_text(
        '[device]\nfleet = "f"\nid = "d"\nkey = "k"\nbundles = ["bundle"]\n'
        '[store]\nappend = ["log.jsonl"]\npoll_s = 0.2\nexam_every = 1000\n'
    )
    (tmp_path / "log.jsonl").write_text('{"text": "good", "label": 1}\n')
    beside = beside_rounds(tmp_path, load(AgentConfig, tmp_path / "agent.toml"), {bundle: tmp_path / "bundle"})
    assert beside is not None
    ids: list[int] = []
    deadline = time.monotonic() + 100
    try:
        while time.monotonic() < deadline:
            beside.turn(is_idle=True)
            port, token = read_port(tmp_path / "state"), read_token(tmp_path / "state") if ids == [] else None
            if port is not None and token is not None:
                said = ask(port, "POST", "/examples", {"text": "bad", "label": 0}, bearer=token)
                ids = [] if said is None else said["ids"]
            store = ExampleStore(tmp_path / "examples")
            n = store.counts().n_train
            store.close()
            if n == 2:
                break
            time.sleep(0.2)
    finally:
        beside.close()
    assert n == 2
    assert load_scores(tmp_path / "state").n_tested == 2
    assert (tmp_path / "state" / "local" / "token").stat().st_mode & 0o077 == 0
