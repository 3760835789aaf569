"""The configuration of the embedded broker, rumqttd (docs/adr/0005)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aggregator.adapters.mosquitto_files import MAX_INFLIGHT

if TYPE_CHECKING:
    from aggregator.adapters.broker import BrokerConfig

__all__ = ["rumqttd_config"]

_MIN_SEGMENT_BYTES: Final = 1 << 20  # rumqttd drops whole segments, so small ones keep the bound on its queue close
# rumqttd keeps the newest of them for each filter: 8 lose at most an eighth of the queue at once.
_N_SEGMENTS: Final = 8


def rumqttd_config(config: BrokerConfig, *, port: int, mqtt311_port: int) -> str:
    """Return ``rumqttd.toml``: an MQTT 5 and a 3.1.1 listener on loopback over one router, every bound set."""
    segment_bytes = max(_MIN_SEGMENT_BYTES, config.max_queued_bytes // _N_SEGMENTS)
    head = f"""\
id = 0

[router]
id = 0
max_connections = {config.max_connections}
max_outgoing_packet_count = 200  # rumqttd's own default: how many packets one read of the log takes
max_segment_size = {segment_bytes}
max_segment_count = {_N_SEGMENTS}
"""
    listeners = (("v5.1", port), ("v4.1", mqtt311_port))
    return head + "".join(_rumqttd_listener(config, table=table, port=port) for table, port in listeners)


def _rumqttd_listener(config: BrokerConfig, *, table: str, port: int) -> str:
    """Return the table of one listener."""
    return f"""
[{table}]
name = "{table}"
listen = "{config.host}:{port}"
next_connection_delay_ms = 1

[{table}.connections]
connection_timeout_ms = 10000  # for the CONNECT of a client that has connected
max_payload_size = {config.max_packet_bytes}
max_inflight_count = {MAX_INFLIGHT}
dynamic_filters = true  # a client may publish to a topic that nobody subscribed to yet
"""
