"""Which files devices may fetch: those that the manifests of the tasks' bundles name, by URL path.

Laws: a path is looked up as a whole in a table that was made from checked manifests; no part of a request ever becomes
part of a file's name. ``put`` comes from the service's thread, ``find`` from the server's: one table, replaced whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.bundle import MANIFEST, file_url_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from aggregator.config import Config
    from host.bundle_folder import Bundle

__all__ = ["URL_PREFIX", "BundleShelf", "ShelvedFile", "bundle_url"]

URL_PREFIX = "/v1/bundles"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShelvedFile:
    """A file of a checked bundle.

    Attributes:
        path: where it is here.
        n_bytes: what the manifest says of its length.
        tag: names its content.
    """

    path: Path
    n_bytes: int
    tag: str


class BundleShelf:
    """The table of files; bundles are only added, for tasks come back."""

    def __init__(self) -> None:
        """Begin empty."""
        self._files: Mapping[str, ShelvedFile] = {}

    def put(self, bundle: Bundle) -> None:
        """Offer ``bundle``."""
        files = {}
        for name, facts in bundle.manifest.files.items():
            one = ShelvedFile(path=bundle.folder / name, n_bytes=facts.bytes, tag=facts.sha256)
            files[_url_path(bundle.id, name)] = one
        n_bytes = (bundle.folder / MANIFEST).stat().st_size
        manifest = ShelvedFile(path=bundle.folder / MANIFEST, n_bytes=n_bytes, tag=bundle.id)
        self._files = {**self._files, **files, _url_path(bundle.id, MANIFEST): manifest}

    def find(self, url_path: str) -> ShelvedFile | None:
        """Return the file that a request's path names, None if there is none."""
        return self._files.get(url_path)


def bundle_url(config: Config) -> str | None:
    """Return where devices fetch bundles, None where they cannot."""
    settings, authority = config.bundles, config.authority
    if settings is None or authority is None:
        return None
    host = f"[{authority.host}]" if ":" in authority.host else authority.host
    return settings.url or f"https://{host}:{settings.port}{URL_PREFIX}"


def _url_path(bundle_id: str, name: str) -> str:
    return f"{URL_PREFIX}/{file_url_path(bundle_id, name)}"
