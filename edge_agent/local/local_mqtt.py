"""Requests, examples and labels over a broker of the device's owner: the same JSON as over HTTP, on topics.

    <predict>    one input, or {"inputs": [input, ...]}     -> an answer
    <examples>   one row, or {"examples": [row, ...]}       -> {"ids": [...]}
    <labels>     {"id": 7, "label": 1}                      -> {"id": 7}

An answer goes to the request's MQTT 5 response topic with its correlation data, if that lies at or below ``answers``;
to ``answers`` without one, where the request's own ``"request"`` (a short text or a number) tells which it is of.

Laws: loopback, or TLS; a message is acknowledged only after it was answered or kept, so what came while this process
was away is answered when it is back, and an example that a crash catches in between may be kept twice; a message beyond
``predict.max_body_bytes``, or one that is no JSON, is dropped and counted; what a request may name as its response
topic is bounded to the owner's, so that nobody publishes elsewhere by our hand. Who may write to the topics is the
broker's to say. Neither text nor label is logged.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from edge_agent.local.intake import rows_of
from edge_agent.local.prediction_routes import inputs_of
from host.link import LinkDown, LinkUp, Received, parse_broker_url
from host.logs import event as log
from protocol.errors import ConfigError, EdgefoldError, RemoteProtocolError
from protocol.topics import matches

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.local.intake import Intake
    from edge_agent.local.serving import Serving
    from edge_agent.mqtt_settings import LocalMqttSettings
    from edge_agent.predict_settings import PredictSettings
    from host.link import Link

__all__ = ["LocalMqtt", "open_link"]

_WAIT_S: Final = 3600.0  # a message, the link or ``close`` wakes it
_MAX_REQUEST_CHARS: Final = 64
_DOWN_S: Final = 0.2  # before a message whose answer did not go out is looked at again


class LocalMqtt:
    """Answers one broker's messages, one at a time; ``start`` gives it a thread."""

    def __init__(
        self,
        settings: LocalMqttSettings,
        link: Link,
        *,
        predict: PredictSettings,
        serving: Serving,
        intake: Intake | None,
    ) -> None:
        """Answer by ``serving``; ``intake`` takes examples and labels of a device with a store."""
        self._settings, self._link, self._predict = settings, link, predict
        self._serving, self._intake = serving, intake
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="local-mqtt", daemon=True)
        self.n_dropped = 0

    def start(self) -> None:
        """Work until ``close``."""
        self._thread.start()

    def close(self) -> None:
        """End after the message that is being answered, and leave the broker."""
        self._is_closing.set()
        self._link.wake()
        self._thread.join()
        self._link.close()

    def turn(self, timeout_s: float) -> None:
        """Wait for one message and answer it."""
        event = self._link.receive(timeout_s)
        match event:
            case Received():
                self._on_message(event)
            case LinkUp(mqtt=mqtt):
                log("local-mqtt-up", mqtt=mqtt)
            case LinkDown(why=why):
                log("local-mqtt-down", why=why)

    def _work(self) -> None:
        while not self._is_closing.is_set():
            self.turn(_WAIT_S)

    def _on_message(self, message: Received) -> None:
        try:
            answer = self._answer(message)
        except RemoteProtocolError as error:  # nobody to tell: too large, no JSON, no response topic of ours
            self.n_dropped += 1
            log("local-message-dropped", topic=message.topic[:256], bytes=len(message.payload), why=str(error))
            answer = None
        if answer is not None and not self._say(message, answer):
            return  # the connection is gone: it comes again
        self._link.acknowledge(message)

    def _answer(self, message: Received) -> dict[str, Any] | None:
        if len(message.payload) > self._predict.max_body_bytes:
            raise RemoteProtocolError("beyond predict.max_body_bytes", reason="oversize")
        if message.response_topic is not None and not self._is_ours(message.response_topic):
            raise RemoteProtocolError(f"its response topic is not below {self._settings.answers}", reason="malformed")
        try:
            body = json.loads(message.payload)
        except (ValueError, RecursionError) as error:
            raise RemoteProtocolError("not JSON", reason="malformed") from error
        request = body.pop("request", None) if isinstance(body, dict) else None
        try:
            said = self._asked(message.topic, body)
        except EdgefoldError as error:
            said = {"error": str(error)}
        return said | ({"request": request} if _is_short(request) else {})

    def _asked(self, topic: str, body: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever was sent
        settings = self._settings
        if settings.predict is not None and matches(settings.predict, topic):
            answers = self._serving.answer(inputs_of(body, max_inputs=self._predict.max_inputs))
            return {"predictions": answers.predictions, "model": asdict(answers.served), "took_ms": answers.took_ms}
        if self._intake is None:
            raise ConfigError("this device has no [store] to keep examples in")
        if settings.examples is not None and matches(settings.examples, topic):
            return {"ids": self._intake.add(rows_of(body), "mqtt")}
        return {"id": self._intake.label_of(body)}

    def _is_ours(self, topic: str) -> bool:
        answers = self._settings.answers
        return topic == answers or (topic.startswith(f"{answers}/") and not {"+", "#"} & set(topic))

    def _say(self, message: Received, answer: dict[str, Any]) -> bool:
        data, topic = json.dumps(answer).encode(), message.response_topic or self._settings.answers
        while not self._is_closing.is_set():
            if self._link.publish(topic, data, correlation=message.correlation):
                return True
            if not self._link.is_up:
                return False
            time.sleep(_DOWN_S)  # its queue is full for now
        return False


def open_link(settings: LocalMqttSettings, here: Path) -> Link:
    """Return a link to the owner's broker, which connects by itself.

    Raises:
        ConfigError: the address is none that may be used, or the authority's file is no good (the owner's fault).
    """
    from host.mqtt_link import MqttLink  # noqa: PLC0415 - a device without [local_mqtt] does without it
    from host.tls import authority_context  # noqa: PLC0415

    address = parse_broker_url(settings.url)
    filters = [one for one in (settings.predict, settings.examples, settings.labels) if one is not None]
    tls = None
    if address.is_tls:
        if settings.ca is None:
            raise ConfigError(
                "local_mqtt.ca: missing; mqtts:// needs the authority that signed the broker's certificate"
            )
        context = authority_context(here / settings.ca)
        tls = lambda: context  # noqa: E731
    return MqttLink(address, client_id=settings.client_id, filters=filters, tls=tls)


def _is_short(request: Any) -> bool:  # noqa: ANN401 - whatever was sent
    return (isinstance(request, str) and len(request) <= _MAX_REQUEST_CHARS) or (
        type(request) is int and abs(request) < 2**53
    )
