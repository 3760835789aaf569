"""From the command line to what is put onto each device: names, tokens, files, all checked before anything is built."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from deploy.flash.batch import device_names, parse_tokens
from deploy.flash.programs import run_program
from deploy.flash.settings import load_agent_tables, load_ssh_keys, load_wifi, make_setup, read_token
from protocol.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.flash.options import Options
    from deploy.flash.settings import DeviceSetup

__all__ = ["setups_of"]

_COMMAND_S = 60.0


def setups_of(options: Options) -> tuple[DeviceSetup, ...]:
    """Return the settings of each device, in the order of their numbers.

    Raises:
        ConfigError: a name, a token or a file is not what it should be (the user's fault).
    """
    name = str(options.device)
    names = (name,) if options.count is None else device_names(name, options.count, first=options.first)
    shared: dict[str, Any] = {
        "data_mb": options.data_mb,
        "tables": {} if options.settings is None else load_agent_tables(options.settings),
        "bundles": options.bundles,
        "examples": options.examples,
        "wifi": None if options.wifi is None else load_wifi(options.wifi),
        "ssh_keys": "" if options.ssh_key is None else load_ssh_keys(options.ssh_key),
        "time_servers": options.time_servers,
    }
    tokens = _tokens(options, len(names))
    return tuple(make_setup(device=one, token=token, **shared) for one, token in zip(names, tokens, strict=True))


def _tokens(options: Options, count: int) -> tuple[str, ...]:
    if options.service is not None:
        text = _made_tokens(options.service, count, options.expires)
    elif str(options.token_file) == "-":
        text = sys.stdin.read()
    else:
        text = read_token(options.token_file)  # type: ignore[arg-type]  # one of both is there: Options
    return parse_tokens(text, count)


def _made_tokens(config: Path, count: int, expires: str) -> str:
    """Return new tokens, made by the command that a person would type."""
    words = ("devices", "token", "--json", f"--count={count}", f"--expires={expires}", "--config", str(config))
    try:
        said = run_program((sys.executable, "-m", "edgefold", *words), deadline_s=_COMMAND_S).decode()
        json.loads(said)
    except (EngineError, ValueError) as error:
        last = str(error).rstrip().rpartition("\n")[2].removeprefix("Error: ")
        raise ConfigError(f"--service {config}: no tokens: {last}") from error
    return said
