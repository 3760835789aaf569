"""``[local_mqtt]`` of a device: a broker of its owner through which programs ask the model and teach it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from protocol.fields import FieldError, Length
from protocol.topics import matches

__all__ = ["LocalMqttSettings"]

_Topic = Annotated[str, Length(1, 256)]
_WILDCARDS = ("+", "#")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalMqttSettings:
    """``[local_mqtt]``: which topics of which broker; without a topic that part is off.

    Attributes:
        url: ``mqtt://127.0.0.1:1883``; beyond this machine ``mqtts://``, with ``ca``.
        ca: PEM file of the authority that signed the broker's certificate.
        client_id: the session's name at that broker.
        predict: filter of the topics on which inputs come.
        answers: where answers go; a request's own response topic must be this or below it.
        examples: filter of the topics on which examples come; whoever the broker lets write there teaches this device.
        labels: filter of the topics on which labels come.
    """

    url: Annotated[str, Length(1, 1024)]
    ca: Annotated[str, Length(1, 4096)] | None = None
    client_id: Annotated[str, Length(1, 64)] = "edgefold-agent"
    predict: _Topic | None = None
    answers: _Topic = "edgefold/answers"
    examples: _Topic | None = None
    labels: _Topic | None = None

    def __post_init__(self) -> None:
        """Refuse filters that MQTT does not know, answers that would be asked again, and a table without a purpose."""
        filters = {"predict": self.predict, "examples": self.examples, "labels": self.labels}
        used = {name: one for name, one in filters.items() if one is not None}
        if not used:
            raise FieldError("expected at least one of predict, examples, labels")
        for name, one in used.items():
            _check_filter(name, one)
        if any(sign in self.answers for sign in _WILDCARDS) or self.answers.startswith("$"):
            raise FieldError("answers: a topic, without wildcards and not of the broker's own")
        below = f"{self.answers}/x"
        for name, one in used.items():
            if matches(one, self.answers) or matches(one, below):
                raise FieldError(f"answers: {self.answers} is among the topics of {name}")
        for name, one in used.items():
            for other, another in used.items():
                if name < other and one == another:
                    raise FieldError(f"{name}, {other}: one topic for both")


def _check_filter(name: str, topic_filter: str) -> None:
    levels = topic_filter.split("/")
    for i, level in enumerate(levels):
        is_misplaced = "#" in level and (level != "#" or i != len(levels) - 1)
        if is_misplaced or ("+" in level and level != "+"):
            raise FieldError(f"{name}: {topic_filter!r} is no topic filter of MQTT")
    if topic_filter[0] in "#$":
        raise FieldError(f"{name}: {topic_filter!r} is everything, or the broker's own")
