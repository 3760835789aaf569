"""Checks of the device itself: folder, identity, clock, bundles, data, memory, engine.

Laws: nothing is written, made, renewed or removed; key files are read for being there and private, never shown.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent.adapters.device_folder import read_state
from edge_agent.adapters.fetched_bundles import whole_folders
from edge_agent.adapters.identity import Enrolment
from edge_agent.adapters.refusal import read_refusal
from edge_agent.adapters.sample_record import SampleRecord
from edge_agent.config import examples_path
from edge_agent.doctor.finding import Finding
from edge_agent.parties import believed_service, own_key
from edge_agent.renewal import AT_FRACTION
from edge_agent.self_test import try_bundle
from edge_agent.trainer.examples import read_rows
from host.bundle_folder import open_bundle
from host.certificates import load_pem
from host.config import load
from host.device_certificates import SKEW_S
from host.engines import choose_engine
from host.keys import load_signing_key
from host.link import parse_broker_url
from host.tls import TlsFiles, client_context
from protocol.errors import BundleError, ConfigError, EdgefoldError, EngineError, StorageError

if TYPE_CHECKING:
    from edge_agent.doctor.finding import Device

__all__ = [
    "check_bundles",
    "check_certificate",
    "check_clock",
    "check_data",
    "check_engine",
    "check_folder",
    "check_identity",
    "check_memory",
    "check_privacy",
]

_ENROL: Final = (
    "edgefold agent enrol --config agent.toml --token TOKEN (the operator's `edgefold devices token` makes one)"
)
_LEAST_BYTES: Final = 32 << 20  # an update, its residual and the work: a few MB each
_LOW_BYTES: Final = 256 << 20
_ISSUERS_WARN_S: Final = 180 * 86_400.0  # as the service warns
_MB: Final = 1_000_000
_TRIAL_S: Final = 120.0  # a person waits


def check_folder(device: Device) -> Finding:
    """Whether the agent's folder can be written, has room, and holds a whole state."""
    folder = device.here / device.config.device.folder
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        free_bytes = shutil.disk_usage(there).free
        read_state(folder)
    except (StorageError, OSError) as error:
        return Finding(name="folder", state="failed", what=str(error), fix="look at the disk; then as the line says")
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding(
            name="folder", state="failed", what=f"{there}: not writable", fix="run as the agent's user, or chown it"
        )
    what = f"{folder}: {free_bytes // _MB} MB free"
    if free_bytes < _LOW_BYTES:
        state = "failed" if free_bytes < _LEAST_BYTES else "warning"
        return Finding(name="folder", state=state, what=what, fix="free some disk space")  # type: ignore[arg-type]
    return Finding(name="folder", state="ok", what=what)


def check_identity(device: Device) -> Finding:
    """Find out whom the device believes, where the broker is, and with which files to go there."""
    settings, folder = device.config.device, device.here / device.config.device.identity
    try:
        device.enrolment = load(Enrolment, folder / "enrolment.toml") if (folder / "enrolment.toml").exists() else None
        _take_address(device)
        if device.address is not None and device.address.is_tls:
            names = {"root": "root.pem", "certificate": "certificate.pem", "key": "tls.key"}
            device.tls = TlsFiles(**{key: folder / name for key, name in names.items()})
            client_context(device.tls)
        load_signing_key(device.here / settings.key)
        own_key(settings, here=device.here, enrolment=device.enrolment)
    except (EdgefoldError, ValueError) as error:
        is_by_hand = device.enrolment is None and device.config.broker.url is not None
        fix = "edgefold agent key --config agent.toml makes the key" if is_by_hand else f"enrol: {_ENROL}"
        return Finding(name="identity", state="failed", what=str(error), fix=fix)
    return Finding(name="identity", state="ok", what=f"{settings.fleet}/{settings.id}, its keys are here and private")


def _take_address(device: Device) -> None:
    config, enrolment = device.config, device.enrolment
    if enrolment is None and config.broker.url is None:
        raise ConfigError("this device has not enrolled")
    if enrolment is not None and (enrolment.fleet, enrolment.device) != (config.device.fleet, config.device.id):
        raise ConfigError(f"enrolled as {enrolment.fleet}/{enrolment.device}, agent.toml says another name")
    url = config.broker.url or ("" if enrolment is None else enrolment.broker_url)
    device.address = parse_broker_url(url)
    device.service_key = believed_service(config.device, here=device.here, enrolment=enrolment)


def check_clock(device: Device) -> Finding:
    """Whether this machine's time can be right: not before its certificate, nor before what it wrote itself."""
    now_s, fix = time.time(), "set the clock: timedatectl set-ntp true, and let it reach a time server"
    if device.tls is not None and device.tls.certificate is not None:
        begin_s = load_pem(device.tls.certificate)[0].not_valid_before_utc.timestamp()
        if now_s < begin_s:
            what = f"this clock says {_date(now_s)}, but the certificate is of {_date(begin_s)}"
            return Finding(name="clock", state="failed", what=what, fix=fix)
    state = device.here / device.config.device.folder / "state.cbor"
    if state.exists() and state.stat().st_mtime > now_s + SKEW_S:
        what = f"this clock says {_date(now_s)}, but the state was written at {_date(state.stat().st_mtime)}"
        return Finding(name="clock", state="warning", what=what, fix=fix)
    return Finding(name="clock", state="ok", what=_date(now_s))


def check_certificate(device: Device) -> Finding:
    """Whether the device's own certificate holds, and for how long."""
    if device.tls is None or device.tls.certificate is None:
        return Finding(name="certificate", state="skipped", what="plain MQTT on this machine needs none")
    own, *issuers = load_pem(device.tls.certificate)
    begin_s, end_s, now_s = own.not_valid_before_utc.timestamp(), own.not_valid_after_utc.timestamp(), time.time()
    if now_s > end_s:
        what = f"the device's certificate expired at {_date(end_s)}; this clock says {_date(now_s)}"
        return Finding(
            name="certificate", state="failed", what=what, fix=f"if the clock is right, enrol again: {_ENROL}"
        )
    what = f"holds until {_date(end_s)}"
    if now_s > begin_s + AT_FRACTION * (end_s - begin_s) and not device.is_running:
        fix = "start the agent: it renews by itself when it reaches the service"
        return Finding(name="certificate", state="warning", what=f"{what}; renewal is due", fix=fix)
    issuers_end_s = min([one.not_valid_after_utc.timestamp() for one in issuers], default=end_s + _ISSUERS_WARN_S)
    if issuers_end_s - now_s < _ISSUERS_WARN_S and end_s <= issuers_end_s:
        what = f"{what}; that of its issuer until {_date(issuers_end_s)}, and no device's holds for longer"
        fix = "tell the operator: edgefold authority renew; devices need nothing then"
        return Finding(name="certificate", state="warning", what=what, fix=fix)
    return Finding(name="certificate", state="ok", what=what)


def check_bundles(device: Device) -> Finding:
    """Whether every bundle is byte for byte what its manifest says."""
    fetched = whole_folders(device.here / device.config.bundles.folder)
    for folder in (*(device.here / name for name in device.config.device.bundles), *fetched):
        try:
            device.bundles.append(open_bundle(folder))
        except EdgefoldError as error:
            fix = "copy the bundle folder again from whoever exported it, whole"
            if folder in fetched:
                fix = "start the agent again: it removes this bundle and fetches it anew"
            return Finding(name="bundles", state="failed", what=str(error), fix=fix)
    what = ", ".join(f"{one.folder.name[:12]} {one.id[:12]}" for one in device.bundles)
    return Finding(name="bundles", state="ok", what=what or "none yet; what a task needs is fetched")


def check_data(device: Device) -> Finding:
    """Whether the data file is there, readable, and has examples; whether they fit the task is the engine's check."""
    path, most = examples_path(device.here, device.config), device.config.data.max_examples
    try:
        if path.suffix.lower() == ".npz":
            n_bytes = path.stat().st_size
            return Finding(name="data", state="ok" if n_bytes else "failed", what=f"{path}: {n_bytes} bytes")
        n_rows = sum(1 for _ in read_rows(path, max_rows=most))
    except (ConfigError, OSError) as error:
        fix = "point data.train at a .jsonl, .csv or .npz file with at least one example, readable by the agent's user"
        return Finding(name="data", state="failed", what=str(error), fix=fix)
    return Finding(name="data", state="ok", what=f"{path}: {n_rows} examples")


def check_privacy(device: Device) -> Finding:
    """Whether the record of what the examples have paid is whole, and anything of the owner's bound is left."""
    settings, folder = device.config.privacy, device.here / device.config.device.folder
    record = SampleRecord(folder)
    try:
        what = record.summary(max_epsilon=settings.max_sample_epsilon, delta=settings.sample_delta)
    except StorageError as error:
        return Finding(name="privacy", state="failed", what=str(error), fix="restore the file; as the line says")
    if what is None:
        return Finding(
            name="privacy", state="skipped", what="no noisy training yet, and privacy.max_sample_epsilon is not set"
        )
    refusal = read_refusal(folder)
    if refusal is not None and "privacy.max_sample_epsilon" in refusal.why:
        fix = "nothing, if that is what its owner wants; a higher privacy.max_sample_epsilon tells more of each example"
        return Finding(name="privacy", state="warning", what=f"{what}; refused: {refusal.why}", fix=fix)
    return Finding(name="privacy", state="ok", what=what)


def check_memory(device: Device) -> Finding:
    """Whether the memory that is free now is enough for what the bundles' plans predict."""
    free_bytes = _available_bytes()
    peaks = [peak.peak_bytes for bundle in device.bundles for peak in bundle.manifest.memory or ()]
    if device.is_running or free_bytes is None or not peaks:
        why = "the agent is running, and may be using it" if device.is_running else "no plan to hold it against"
        return Finding(name="memory", state="skipped", what=why)
    what = f"{free_bytes // _MB} MB free; training takes {min(peaks) // _MB} to {max(peaks) // _MB} MB, by batch"
    if free_bytes < min(peaks):
        return Finding(name="memory", state="failed", what=what, fix="end other programs, or export for a smaller tier")
    if free_bytes < max(peaks):
        return Finding(
            name="memory", state="warning", what=what, fix="the operator's plan should keep to small batches"
        )
    return Finding(name="memory", state="ok", what=what)


def check_engine(device: Device) -> Finding:
    """Start a trainer as a round would, and have it score two of the device's own examples with each bundle."""
    names = []
    if not device.bundles:
        return Finding(name="engine", state="skipped", what="there is no bundle yet")
    try:
        for bundle in device.bundles:
            names.append(choose_engine(device.config.trainer.engine, bundle.manifest.engines))
            if not device.is_running:
                try_bundle(bundle, device.here, device.config, deadline_s=_TRIAL_S)
    except EngineError as error:
        fix = "edgefold engine list shows what is installed; trainer.memory_limit_mb what a trainer may take"
        return Finding(name="engine", state="failed", what=str(error), fix=fix)
    except (ConfigError, BundleError) as error:
        fix = (
            "the data file does not suit the bundle's task"
            if isinstance(error, ConfigError)
            else "export the bundle anew with this edgefold"
        )
        return Finding(name="engine", state="failed", what=str(error), fix=fix)
    how = (
        "installed; not tried, since the agent is running" if device.is_running else "scored the device's own examples"
    )
    return Finding(name="engine", state="ok", what=f"{', '.join(sorted(set(names)))}: {how}")


def _available_bytes() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None
    return None


def _date(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix_s))
