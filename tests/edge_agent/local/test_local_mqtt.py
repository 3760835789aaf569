"""The local MQTT way: the JSON of HTTP on topics of a real Mosquitto, bounded, and no request lost by a swap."""

from __future__ import annotations

import json
import queue
import time
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.adapters.example_store import ExampleStore
from edge_agent.beside import beside_rounds
from edge_agent.config import AgentConfig
from edge_agent.local import serving as serving_module
from edge_agent.local.endpoint import ask, read_port
from edge_agent.local.intake import Intake
from edge_agent.local.local_mqtt import LocalMqtt, open_link
from edge_agent.mqtt_settings import LocalMqttSettings
from edge_agent.predict_settings import PredictSettings
from edge_agent.store_settings import StoreSettings
from host.config import load
from host.memory_link import MemoryBroker
from protocol.errors import ConfigError
from protocol.fields import FieldError
from tests.edge_agent.local.test_serving import GOOD, Device
from tests.edge_agent.trainer.bag_of_words import knowing
from tests.host.mosquitto import BINARY, MISSING, Mosquitto

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SETTINGS = LocalMqttSettings(
    url="mqtt://127.0.0.1", predict="edgefold/predict/#", examples="edgefold/examples", labels="edgefold/labels"
)
needs_mosquitto = pytest.mark.skipif(BINARY is None, reason=MISSING)


class Rig:
    """What answers, on a wire in memory, with a store."""

    def __init__(self, here: Path) -> None:
        self.device, self.broker, self.here = Device(here), MemoryBroker(), here
        filters = [one for one in (SETTINGS.predict, SETTINGS.examples, SETTINGS.labels) if one is not None]
        self.mqtt = LocalMqtt(
            SETTINGS,
            self.broker.link(filters),
            predict=PredictSettings(max_body_bytes=400, max_inputs=2),
            serving=self.device.serving,
            intake=Intake(here / "store", StoreSettings(), None),
        )

    def say(self, topic: str, payload: object) -> list[dict[str, Any]]:
        """Publish, let it be answered, return the answers."""
        n = len(self.broker.traffic)
        self.broker.route(topic, payload if isinstance(payload, bytes) else json.dumps(payload).encode(), retain=False)
        for _ in range(5):
            self.mqtt.turn(0)
        return [json.loads(data) for topic, data in self.broker.traffic[n + 1 :] if topic == SETTINGS.answers]


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(serving_module, "_LOOK_EVERY_S", 0.0)
    made = Rig(tmp_path)
    yield made
    made.device.folder.close()


def test_an_input_is_answered_as_over_http_and_names_its_request(rig: Rig) -> None:
    rig.device.bring(knowing(good=2.0), version=3)
    (said,) = rig.say("edgefold/predict/kitchen", {**GOOD[0], "request": "r-1"})
    assert (said["predictions"][0]["label"], said["model"]["version"], said["request"]) == (1, 3, "r-1")
    assert said["took_ms"] > 0
    (said,) = rig.say("edgefold/predict", {"inputs": GOOD * 2})
    assert len(said["predictions"]) == 2


def test_examples_and_labels_reach_the_store(rig: Rig) -> None:
    (said,) = rig.say("edgefold/examples", {"examples": [{"text": "good", "label": 1}, {"text": "bad"}]})
    assert said == {"ids": [1, 2]}
    assert rig.say("edgefold/labels", {"id": 2, "label": 0}) == [{"id": 2}]
    store = ExampleStore(rig.here / "store")
    assert store.counts().n_unlabelled == 0
    store.close()


@pytest.mark.parametrize("payload", [b"", b"no json", b"[" * 300, b'{"text": "' + b"a" * 500 + b'"}', b"\xff\xfe"])
def test_what_is_no_json_or_too_large_is_dropped_counted_and_acknowledged(rig: Rig, payload: bytes) -> None:
    assert rig.say("edgefold/predict/x", payload) == []
    assert rig.mqtt.n_dropped == 1
    rig.broker.drop()
    rig.broker.restore()
    assert len(rig.say("edgefold/predict/x", GOOD[0])) == 1  # it goes on, and the other does not come again
    assert rig.mqtt.n_dropped == 1


@pytest.mark.parametrize(
    ("topic", "payload", "words"),
    [
        ("edgefold/predict/x", {"inputs": GOOD * 3}, "1 to 2"),
        ("edgefold/predict/x", [1], "object"),
        ("edgefold/examples", {"examples": []}, "1 to 1000"),
        ("edgefold/examples", {"examples": [3]}, "an object"),
        ("edgefold/labels", {"id": "x", "label": 1}, "number"),
        ("edgefold/labels", {"id": 99, "label": 1}, "99"),
    ],
)
def test_a_wrong_request_is_answered_by_one_line(rig: Rig, topic: str, payload: object, words: str) -> None:
    (said,) = rig.say(topic, payload)
    assert words in said["error"]


def test_a_request_without_a_connection_for_its_answer_comes_again(rig: Rig) -> None:
    link = rig.mqtt._link
    link.publish = lambda *_, **__: False  # type: ignore[method-assign]
    rig.broker.is_up = False
    rig.broker.is_up = True
    rig.broker.route("edgefold/predict/x", json.dumps(GOOD[0]).encode(), retain=False)
    rig.broker.is_up = False
    for _ in range(2):
        rig.mqtt.turn(0)
    del link.publish  # type: ignore[attr-defined]
    n = len(rig.broker.traffic)
    rig.broker.restore()
    for _ in range(3):
        rig.mqtt.turn(0)
    assert [topic for topic, _ in rig.broker.traffic[n:]] == [SETTINGS.answers]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"predict": None, "examples": None, "labels": None}, "at least one"),
        ({"answers": "edgefold/predict/answers"}, "among the topics of predict"),
        ({"answers": "edgefold/+"}, "wildcards"),
        ({"predict": "#"}, "everything"),
        ({"predict": "$SYS/x"}, "broker's own"),
        ({"predict": "a/#/b"}, "no topic filter"),
        ({"predict": "a+"}, "no topic filter"),
        ({"labels": "edgefold/examples"}, "one topic for both"),
    ],
)
def test_topics_that_cannot_work_are_refused_at_the_start(changes: dict[str, Any], words: str) -> None:
    facts: dict[str, Any] = {
        "url": SETTINGS.url,
        "predict": "edgefold/predict/#",
        "examples": "edgefold/examples",
        **changes,
    }
    with pytest.raises(FieldError, match=words):
        LocalMqttSettings(**facts)


@pytest.mark.parametrize(
    ("url", "words"), [("mqtt://broker.example:1883", "loopback only"), ("mqtts://broker.example", "local_mqtt.ca")]
)
def test_a_broker_elsewhere_needs_tls_and_its_authority(url: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        open_link(LocalMqttSettings(url=url, predict="p"), tmp_path)


class Asker:
    """Another program of the machine, with MQTT 5."""

    def __init__(self, port: int, name: str = "asker") -> None:
        self.answers: queue.Queue[tuple[str, bytes | None, dict[str, Any]]] = queue.Queue()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_message = self._heard
        self._client.connect("127.0.0.1", port)
        self._client.subscribe("edgefold/answers/#", qos=1)
        self._client.loop_start()
        time.sleep(0.3)  # subscribed

    def _heard(self, _client: Any, _data: Any, message: Any) -> None:
        correlation = getattr(message.properties, "CorrelationData", None)
        self.answers.put((message.topic, correlation, json.loads(message.payload)))

    def ask(self, body: object, *, topic: str = "edgefold/predict", answer: str | None, correlation: bytes) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        if answer is not None:
            properties.ResponseTopic = answer
        properties.CorrelationData = correlation
        self._client.publish(topic, json.dumps(body).encode(), qos=1, properties=properties).wait_for_publish(10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    (tmp_path / "broker").mkdir()
    broker = Mosquitto(tmp_path / "broker").start()
    yield broker
    broker.kill()


@needs_mosquitto
def test_over_a_real_broker_answers_go_where_they_are_wanted_and_no_swap_loses_a_request(
    tmp_path: Path, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_module, "_LOOK_EVERY_S", 0.0)
    device = Device(tmp_path)
    settings = LocalMqttSettings(url=f"mqtt://127.0.0.1:{mosquitto.port}", predict="edgefold/predict")
    mqtt = LocalMqtt(
        settings, open_link(settings, tmp_path), predict=PredictSettings(), serving=device.serving, intake=None
    )
    mqtt.start()
    asker = Asker(mosquitto.port)
    try:
        asker.ask(GOOD[0], answer="edgefold/answers/me", correlation=b"first")
        topic, correlation, said = asker.answers.get(timeout=30)
        assert (topic, correlation, said["model"]["version"]) == ("edgefold/answers/me", b"first", 0)
        asker.ask(GOOD[0], answer="elsewhere/topic", correlation=b"bad")  # not by our hand
        n = 40
        for number in range(n):
            if number % 5 == 0:
                device.bring(knowing(good=1.0 + number), version=1 + number)
            asker.ask({**GOOD[0], "request": number}, answer=None, correlation=b"%d" % number)
        heard = [asker.answers.get(timeout=30) for _ in range(n)]
        assert sorted(said["request"] for _, _, said in heard) == list(range(n))
        assert all(correlation == b"%d" % said["request"] for _, correlation, said in heard)
        assert {topic for topic, _, _ in heard} == {"edgefold/answers"}
        assert device.serving.n_exchanges > 0
        assert mqtt.n_dropped == 1
        latency = device.serving.latency.percentiles()
        assert latency is not None
        assert latency.n == n + 1
    finally:
        asker.close()
        mqtt.close()
        device.folder.close()


@needs_mosquitto
def test_the_local_process_serves_and_learns_over_mqtt_also_after_the_broker_was_away(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    device = Device(tmp_path)
    device.bring(knowing(good=3.0, bad=-3.0), version=1)
    (tmp_path / "agent.toml").write_text(
        '[device]\nfleet = "f"\nid = "d"\nkey = "k"\nbundles = ["bundle"]\n[store]\n[local_mqtt]\n'
        f'url = "mqtt://127.0.0.1:{mosquitto.port}"\npredict = "edgefold/predict"\nexamples = "edgefold/examples"\n'
    )
    config = load(AgentConfig, tmp_path / "agent.toml")
    beside = beside_rounds(tmp_path, config, {device.bundle: tmp_path / "bundle"})
    assert beside is not None
    asker = None
    try:
        beside.turn(is_idle=False)
        until = time.monotonic() + 60
        while read_port(tmp_path / "state") is None and time.monotonic() < until:
            time.sleep(0.1)
        asker = Asker(mosquitto.port)
        asker.ask({**GOOD[0], "request": 1}, answer=None, correlation=b"1")
        assert asker.answers.get(timeout=60)[2]["predictions"][0]["label"] == 1
        mosquitto.stop()
        mosquitto.start()
        asker.close()
        asker = Asker(mosquitto.port, "another")
        example = {"text": "good film", "label": 1}
        asker.ask(example, topic="edgefold/examples", answer="edgefold/answers/e", correlation=b"e")
        assert asker.answers.get(timeout=60)[2] == {"ids": [1]}
        port = read_port(tmp_path / "state")
        assert port is not None
        health = ask(port, "GET", "/health")
        assert health is not None
        # QoS 1: a request whose acknowledgement was on its way when the broker went comes again.
        assert health["latency"]["n"] in {1, 2}
        store = ExampleStore(tmp_path / "examples")
        assert store.counts().n_unlabelled == 0
        store.close()
    finally:
        if asker is not None:
            asker.close()
        beside.close()
        device.folder.close()
