"""The local process: its settings from standard input, one JSON line; then it serves until its parent is gone.

state/local/endpoint.json    {"port": ..., "pid": ...}: where it listens, for commands on this machine
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent.local.endpoint import write_endpoint
from edge_agent.local.keeper import Keeper
from edge_agent.local.loopback_http import start_server
from edge_agent.local.orders import Orders
from edge_agent.local.prediction_routes import prediction_routes
from edge_agent.local.serving import Serving
from host import logs
from host.parent import die_with_parent
from protocol.errors import EdgefoldError
from protocol.fields import FieldError, structure

if TYPE_CHECKING:
    from edge_agent.local.local_mqtt import LocalMqtt
    from edge_agent.local.loopback_http import Routes
    from edge_agent.mqtt_settings import LocalMqttSettings

_MAX_LINE_BYTES: Final = 1 << 20
_EXIT_FAILED: Final = 4


def main() -> int:
    """Serve; ends when standard input does, which is when the agent goes."""
    try:
        orders = structure(Orders, json.loads(sys.stdin.buffer.readline(_MAX_LINE_BYTES)), lenient_floats=True)
    except (FieldError, ValueError, RecursionError) as error:
        sys.stderr.write(f"edgefold: not orders for a local process: {error}\n")
        return _EXIT_FAILED
    die_with_parent(orders.parent)
    os.nice(orders.nice)
    logs.configure(level=orders.log_level)
    try:
        _serve(orders)
    except EdgefoldError as error:
        logs.event("local-process-failed", error=str(error))
        return _EXIT_FAILED
    return 0


def _serve(orders: Orders) -> None:
    predict, folder = orders.predict, Path(orders.folder)
    serving = Serving(
        folder,
        bundles=orders.bundles,
        task=predict.task,
        fetched=None if orders.fetched is None else Path(orders.fetched),
        labels=predict.labels,
        threads=predict.threads,
    )
    routes: Routes = dict(prediction_routes(serving, max_inputs=predict.max_inputs))
    keeper = None if orders.store is None else Keeper(orders, orders.store, serving)
    if keeper is not None:
        routes = {**routes, **keeper.routes()}
    server = start_server(
        predict.port or 0,
        routes,
        max_body_bytes=predict.max_body_bytes,
        max_connections=predict.max_connections,
    )
    write_endpoint(folder, port=server.server_address[1])
    logs.event("local-process-ready", port=server.server_address[1])
    if keeper is not None:
        keeper.start()
    mqtt = None if orders.local_mqtt is None else _start_mqtt(orders, orders.local_mqtt, serving, keeper)
    while sys.stdin.buffer.read(1):
        pass
    if mqtt is not None:
        mqtt.close()
    server.shutdown()
    server.server_close()


def _start_mqtt(orders: Orders, settings: LocalMqttSettings, serving: Serving, keeper: Keeper | None) -> LocalMqtt:
    from edge_agent.local.local_mqtt import LocalMqtt, open_link  # noqa: PLC0415 - most devices have no broker of theirs

    link, intake = open_link(settings, Path(orders.here)), None if keeper is None else keeper.intake
    mqtt = LocalMqtt(settings, link, predict=orders.predict, serving=serving, intake=intake)
    mqtt.start()
    return mqtt


if __name__ == "__main__":
    sys.exit(main())
