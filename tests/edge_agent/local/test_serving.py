"""What is served: the newest version with this device's own part, exchanged while requests go on."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.adapters.device_folder import DeviceFolder
from edge_agent.adapters.personal_part import PersonalFacts, keep_personal, personal_file, remove_personal
from edge_agent.core.session import SessionState
from edge_agent.local import serving as module
from edge_agent.local.serving import Serving
from protocol import codec
from protocol.errors import ConfigError
from protocol.messages import Work
from protocol.plan import Codec, DeviceTerms, Plan
from tests.edge_agent.trainer.bag_of_words import N_PARAMS, knowing, write_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GOOD = [{"text": "the film was good"}]


def work(bundle: str, theta: np.ndarray, *, version: int, task: str = "t", terms: DeviceTerms | None = None) -> Work:
    payload = codec.encode(theta, Codec(name="float32"))
    plan = Plan(terms=terms)
    return Work(
        task=task,
        round=version + 1,
        version=version,
        bundle_id=bundle,
        plan=plan,
        adapter=payload,
        task_key=bytes(1216),
        seconds_left=1.0,
    )


class Device:
    """A device's folder with a bundle, and what serves from it."""

    def __init__(self, here: Path) -> None:
        self.bundle = write_bundle(here / "bundle", theta=knowing(good=-1.0))
        self.folder = DeviceFolder(here / "state")
        self.here = here
        self.serving = Serving(here / "state", bundles={self.bundle: str(here / "bundle")})

    def label(self) -> int:
        label: int = self.serving.answer(GOOD).predictions[0]["label"]
        return label

    def bring(self, theta: np.ndarray, *, version: int, terms: DeviceTerms | None = None) -> None:
        self.folder.save_work(work(self.bundle, theta, version=version, terms=terms))


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.0)
    made = Device(tmp_path)
    yield made
    made.folder.close()


def test_before_any_work_the_bundles_own_adapter_serves(device: Device) -> None:
    answers = device.serving.answer(GOOD)
    assert answers.predictions[0]["label"] == 0
    assert (answers.served.task, answers.served.version) == (None, 0)
    # softmax of (0, -1): the closed form
    assert answers.predictions[0]["probabilities"]["0"] == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-6)


def test_a_newer_version_takes_over_and_names_follow_labels(device: Device) -> None:
    device.bring(knowing(good=2.0), version=3)
    serving = Serving(device.here / "state", bundles={device.bundle: str(device.here / "bundle")}, labels=("no", "yes"))
    answers = serving.answer(GOOD)
    assert (answers.predictions[0]["name"], answers.served.version) == ("yes", 3)
    assert device.label() == 1
    device.bring(knowing(good=-2.0), version=4)
    assert device.label() == 0


def test_what_a_strategy_left_on_the_device_is_served_with_the_global_part(device: Device) -> None:
    terms = DeviceTerms(personal_roles=("head",))
    (device.here / "state" / f"kept-{bytes(16).hex()}.f32").write_bytes(knowing(good=5.0).tobytes())
    device.folder.save_state(SessionState(kept_of={"t": bytes(16)}))
    device.bring(knowing(good=-5.0), version=1, terms=terms)
    assert device.label() == 1  # the head is personal: the device's own counts
    assert device.serving.served() is not None
    assert device.serving.served().is_personal  # type: ignore[union-attr]


def test_a_base_change_that_cannot_be_made_leaves_the_version_before(device: Device) -> None:
    device.bring(knowing(good=2.0), version=1)
    assert device.label() == 1
    device.bring(knowing(good=-2.0), version=2, terms=DeviceTerms(base_change=True))  # its bundle has no base.json
    assert device.label() == 1
    longer = np.append(knowing(good=-2.0), np.float32(1))
    device.bring(longer, version=3, terms=DeviceTerms(base_change=True))
    assert device.label() == 1
    device.bring(knowing(good=-2.0), version=4)
    assert device.label() == 0


def test_the_locally_trained_part_is_added_and_can_be_taken_back(device: Device) -> None:
    device.bring(knowing(good=-1.0), version=1)
    assert device.label() == 0
    vector = device.here / "v"
    vector.write_bytes(knowing(good=3.0).tobytes())
    facts = PersonalFacts(
        task="t",
        bundle_id=device.bundle,
        version=1,
        n_examples=9,
        n_exam=3,
        global_accuracy=0.5,
        personal_accuracy=1.0,
        unix_s=0.0,
    )
    keep_personal(device.here / "state", vector, facts)
    assert device.label() == 1
    remove_personal(device.here / "state", "t")
    assert device.label() == 0


def test_a_personal_part_of_another_bundle_is_left_out(device: Device) -> None:
    device.bring(knowing(good=-1.0), version=1)
    personal_file(device.here / "state", "t").write_bytes(knowing(good=3.0).tobytes())
    assert device.label() == 0  # no facts beside it


def test_a_damaged_newer_version_leaves_the_present_one_serving(device: Device) -> None:
    device.bring(knowing(good=2.0), version=1)
    assert device.label() == 1
    (device.here / "state" / "served-t.cbor").write_bytes(b"\xff" * 100)
    assert device.label() == 1
    device.bring(np.zeros(N_PARAMS + 1, np.float32), version=2)
    assert device.label() == 1
    device.bring(knowing(good=-2.0), version=3)
    assert device.label() == 0


def test_no_request_is_lost_while_versions_change(device: Device) -> None:
    device.bring(knowing(good=1.0), version=1)
    device.label()
    stop, seen, errors = threading.Event(), [], []

    def ask() -> None:
        while not stop.is_set():
            try:
                answers = device.serving.answer(GOOD)
                seen.append((answers.served.version, answers.predictions[0]["label"]))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is lost
                errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for one in threads:
        one.start()
    for version in range(2, 12):
        device.bring(knowing(good=1.0 if version % 2 else -1.0), version=version)
        time.sleep(0.02)
    deadline = time.monotonic() + 20
    while 11 not in {version for version, _ in seen[-50:]} and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    for one in threads:
        one.join()
    assert errors == []
    assert {label for version, label in seen if version % 2} == {1}  # an answer is of one version, never a mixture
    assert {label for version, label in seen if not version % 2} <= {0}
    assert device.serving.n_exchanges >= 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["x"], "expected an object"),
        ([{"txt": "x"}], "expected a text under 'text'"),
        ([{"text": 5}], "expected a text"),
        ([{"text": "\ud800"}], "not valid Unicode"),
        ([], "no inputs"),
    ],
)
def test_a_wrong_input_is_the_askers_fault(device: Device, given: list[object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        device.serving.answer(given)


def test_no_bundle_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no bundle yet"):
        Serving(tmp_path, bundles={}).answer(GOOD)


def test_a_bundle_that_is_fetched_while_it_serves_is_used_without_a_restart(device: Device, tmp_path: Path) -> None:
    fetched = tmp_path / "bundles"
    fetched.mkdir()
    serving = Serving(device.here / "state", bundles={}, fetched=fetched)
    with pytest.raises(ConfigError, match="there is no bundle yet"):
        serving.answer(GOOD)
    (device.here / "bundle").rename(fetched / device.bundle)
    assert serving.answer(GOOD).served.version == 0
    assert serving.answer(GOOD).predictions[0]["label"] == 0
    other = write_bundle(tmp_path / "other", theta=knowing(good=-3.0))
    device.folder.save_work(work(other, knowing(good=2.0), version=3))
    assert serving.answer(GOOD).served.version == 0  # its bundle is still on its way
    (tmp_path / "other").rename(fetched / other)
    device.folder.save_work(work(other, knowing(good=2.0), version=4))
    answers = serving.answer(GOOD)
    assert (answers.served.version, answers.served.bundle_id) == (4, other)
    assert answers.predictions[0]["label"] == 1
