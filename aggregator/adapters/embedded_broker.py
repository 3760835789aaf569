"""Entry point of the embedded broker's process: rumqttd, from the wheel ``iotcore``, with a configuration file.

Laws: runs in a process of its own, since rumqttd has no way to stop but the end of its process; imports nothing of
edgefold, so that it starts in tens of milliseconds and is 30 MB idle; writes one line to stderr when it cannot start.
It does not choose ports, write configuration or restart anything: ``aggregator.adapters.broker`` does.
Memory: bounded by the segments that the configuration allows, for each topic filter that was ever subscribed to.
"""

from __future__ import annotations

import argparse
import logging
import sys

__all__ = ["main"]

EXIT_CANNOT_LISTEN = 3  # apart from Python's own 1 and argparse's 2


def main(argv: list[str] | None = None) -> int:
    """Serve MQTT until the process is ended; return only when that cannot be done.

    Args:
        argv: arguments without the program's name; ``None`` means ``sys.argv[1:]``.

    Returns:
        ``EXIT_CANNOT_LISTEN`` when a listener's port is taken, 0 when rumqttd ended by itself.
    """
    parser = argparse.ArgumentParser(prog="embedded_broker", description=main.__doc__)
    parser.add_argument("--config", required=True, help="rumqttd TOML file")
    arguments = parser.parse_args(argv)
    # rumqttd logs every routed packet inside an error span, so its records are worthless below CRITICAL.
    logging.basicConfig(level=logging.CRITICAL)
    from iotcore.iotcore import IotCoreBroker  # noqa: PLC0415 - argument errors need no 14 MB library

    broker = IotCoreBroker(config_path=arguments.config)
    try:
        broker.check_ports()
    except OSError as exc:
        sys.stderr.write(f"cannot listen: {exc}\n")
        return EXIT_CANNOT_LISTEN
    broker.run_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
