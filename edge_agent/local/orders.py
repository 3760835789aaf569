"""What the agent tells its local process at start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from edge_agent.continual_settings import ContinualSettings
from edge_agent.mqtt_settings import LocalMqttSettings  # noqa: TC001 - structure() resolves the annotations
from edge_agent.predict_settings import PredictSettings  # noqa: TC001 - structure() resolves the annotations
from edge_agent.store_settings import StoreSettings  # noqa: TC001 - as above
from protocol.fields import Hex, Length, Range

__all__ = ["Orders"]

_PathText = Annotated[str, Length(1, 4096)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """All that a local process needs; paths are absolute or relative to its working folder, which is the agent's."""

    parent: int = 0  # process id to die with; whoever starts the process fills it in
    folder: _PathText  # the agent's
    bundles: Annotated[dict[Hex, _PathText], Length(0, 64)]  # checked folders by id
    here: _PathText = "."  # the folder of the configuration, to which its paths are relative
    fetched: _PathText | None = None  # where bundles that come later lie, by their ids
    predict: PredictSettings
    store: StoreSettings | None = None
    local_mqtt: LocalMqttSettings | None = None
    continual: ContinualSettings = field(default_factory=ContinualSettings)
    nice: Annotated[int, Range(0, 19)] = 0  # somebody waits for the answer, as nobody does for a training
    log_level: Literal["debug", "info", "warning", "error"] = "info"
