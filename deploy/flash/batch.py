"""Many images at once: one master is built, every further image is a copy of it with another identity put in.

    OUT/NAME.img          one for each device; holes stay holes, and blocks are shared where the file system can
    OUT/manifest.json     device, image, SHA-256, and which token it holds, without the token
    OUT/labels.html       a sheet to print (``labels``)

Laws: all or nothing: the folder appears when everything in it is finished; a token goes into one image; how much disk
it takes is known before the first copy.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from deploy.flash.sparse_files import copy_sparse, require_room
from deploy.flash.workshop import carry_out
from host.durable import make_folder, write_bytes
from protocol.enrolment import fingerprint, parse_token
from protocol.errors import ConfigError, StorageError
from protocol.fields import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from deploy.flash.settings import DeviceSetup
    from deploy.flash.steps import Step

__all__ = ["MAX_COUNT", "MadeImage", "device_names", "make_batch", "parse_tokens", "token_id"]

MAX_COUNT: Final = 1000  # as many tokens as ``edgefold devices token`` makes at once
_ID_CHARS: Final = 16
_MARK: Final = re.compile(r"\{(?::0?([1-9]))?\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeImage:
    """An image of a batch."""

    device: str
    fleet: str
    image: str  # its file name
    n_bytes: int
    sha256: str
    token_id: str


def device_names(pattern: str, count: int, *, first: int = 1) -> tuple[str, ...]:
    """Return ``count`` names: ``shop-{:03}`` counts within the braces, ``shop`` gets a dash and the number.

    Raises:
        ConfigError: more than one pair of braces, or others than ``{}`` and ``{:03}`` (the user's fault).
    """
    if not 1 <= count <= MAX_COUNT:
        raise ConfigError(f"--count {count}: expected 1 to {MAX_COUNT}")
    if first < 0:
        raise ConfigError(f"--first {first}: expected 0 or more")
    width = len(str(first + count - 1))
    if not set("{}") & set(pattern):
        pattern += "-{}"
    found = _MARK.search(pattern)
    before, after = (pattern[: found.start()], pattern[found.end() :]) if found else ("", "{")
    if found is None or set("{}") & set(before + after):
        raise ConfigError(f"--device {pattern}: expected one {{}} or {{:03}} where the number goes")
    width = max(width, int(found[1] or 0))
    return tuple(f"{before}{number:0{width}}{after}" for number in range(first, first + count))


def parse_tokens(text: str, count: int) -> tuple[str, ...]:
    """Return ``count`` tokens from what ``edgefold devices token`` printed, as lines or as JSON.

    Raises:
        ConfigError: not as many, one twice, or for several fleets (the user's fault).
    """
    try:
        tokens = json.loads(text)["tokens"] if text.lstrip().startswith("{") else text.split()
        tokens = [str(one) for one in tokens]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError("tokens: expected what edgefold devices token prints, with or without --json") from error
    if len(tokens) != count:
        raise ConfigError(f"{len(tokens)} tokens for {count} devices; run: edgefold devices token --count {count}")
    if len({token_id(one) for one in tokens}) < count:
        raise ConfigError("tokens: one is there twice, and each lets in one device")
    if len({parse_token(one).fleet for one in tokens}) > 1:
        raise ConfigError("tokens: for more than one fleet")
    return tuple(tokens)


def token_id(token: str) -> str:
    """Return what a token may be called in public: the beginning of the hash by which the service knows its secret."""
    return fingerprint(parse_token(token).secret).hex()[:_ID_CHARS]


def make_batch(
    master: Path,
    setups: Sequence[DeviceSetup],
    *,
    out: Path,
    identity: Callable[[DeviceSetup, Path], Sequence[Step]],
    finish: Callable[[Path, Sequence[MadeImage]], None],
    watch: Callable[[str], None] = lambda _: None,
) -> tuple[MadeImage, ...]:
    """Make the folder ``out`` of one image for each of ``setups``; return them.

    Args:
        master: an image of no device; it stays as it is.
        setups: the devices.
        out: must not be there yet.
        identity: the steps that make a copy one device's.
        finish: adds to the folder what belongs to the whole, such as labels.
        watch: told each image.

    Raises:
        ConfigError: ``out`` is there, or has no room (the user's fault).
        EngineError, StorageError: a copy cannot be made; ``out`` is not there.
    """
    if out.exists():
        raise ConfigError(f"{out}: is there already; a batch makes a folder of its own")
    each = master.stat().st_blocks * 512
    require_room(out, each * len(setups), f"a batch of {len(setups)}")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial)
    try:
        made = []
        for number, setup in enumerate(setups, 1):
            watch(f"image {number} of {len(setups)}: {setup.device}")
            made.append(_make_one(master, setup, partial, identity))
        listed = {"fleet": setups[0].fleet, "images": [plain(one) for one in made]}
        write_bytes(partial / "manifest.json", json.dumps(listed, indent=2).encode() + b"\n", mode=0o644)
        finish(partial, made)
        partial.rename(out)
    except OSError as error:
        raise StorageError(f"{partial}: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return tuple(made)


def _make_one(
    master: Path, setup: DeviceSetup, folder: Path, identity: Callable[[DeviceSetup, Path], Sequence[Step]]
) -> MadeImage:
    image = folder / f"{setup.device}.img"
    copy_sparse(master, image)
    image.chmod(0o600)  # it holds a token
    carry_out(identity(setup, image))
    with image.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return MadeImage(
        device=setup.device,
        fleet=setup.fleet,
        image=image.name,
        n_bytes=image.stat().st_size,
        sha256=digest,
        token_id=token_id(setup.token),
    )
