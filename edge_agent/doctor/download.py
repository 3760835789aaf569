"""Whether bundles can be fetched: the server is of this fleet, takes the device's certificate, and speaks HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge_agent.adapters.https_files import HttpsFiles
from edge_agent.doctor.finding import Finding
from host.tls import client_context
from protocol.bundle import MANIFEST, file_url_path
from protocol.errors import EdgefoldError

if TYPE_CHECKING:
    from edge_agent.doctor.finding import Device

__all__ = ["check_download"]

_TIMEOUT_S: Final = 10.0
_NOBODYS: Final = "0" * 64  # no bundle has this id
_SERVER_FAULT: Final = 500
_NOT_FOUND: Final = 404


def check_download(device: Device) -> Finding:
    """Ask for a bundle that does not exist: an honest 404 shows that every hop of a download works."""
    url, files = device.bundle_url, device.tls
    if url is None or files is None:
        return Finding(name="download", state="skipped", what="bundles are copied by hand; no address to fetch them")
    try:
        server = HttpsFiles(url, lambda: client_context(files), timeout_s=_TIMEOUT_S)
        status = server.status_of(file_url_path(_NOBODYS, MANIFEST))
    except EdgefoldError as error:
        fix = (
            "is [bundles] in the service's aggregator.toml, its port open, and the address right? "
            "a revoked or expired device is refused too"
        )
        return Finding(name="download", state="failed", what=str(error), fix=fix)
    if status != _NOT_FOUND:
        fix = "try again later" if status >= _SERVER_FAULT else "bundles.url: is it the service's, with its path?"
        return Finding(name="download", state="warning", what=f"{server.where} answers with {status}", fix=fix)
    return Finding(name="download", state="ok", what=f"{server.where} serves bundles to this device")
