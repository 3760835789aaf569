"""A bundle server with a real authority and real certificates, for tests on both of its sides."""

from __future__ import annotations

import http.client
import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aggregator.adapters.authority import make_authority
from aggregator.bundle_settings import BundleSettings
from aggregator.bundle_shelf import URL_PREFIX, BundleShelf
from aggregator.web.bundle_server import BundleServer
from host.bundle_folder import open_bundle
from host.certificates import make_key, make_request
from host.tls import TlsFiles, client_context
from protocol.signing import SigningKey
from tests.aggregator.workbench import make_bundle
from tests.host.mosquitto import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from aggregator.adapters.authority import Authority

WAIT_S = 10.0


class BundleHost:
    """Serves one bundle; ``get`` asks as a device."""

    def __init__(self, folder: Path, **settings: float) -> None:
        self.folder = folder
        self.authority = make_authority(folder / "ca", fleet="f", host="127.0.0.1", now=datetime.now(UTC))
        self.bundle = open_bundle(make_bundle(folder / "bundle"))
        self.shelf = BundleShelf()
        self.shelf.put(self.bundle)
        self.port = free_port()
        self.settings = BundleSettings(port=self.port, **settings)  # type: ignore[arg-type]
        self.serials: dict[str, int] = {}
        self.tls = self.device("pi")
        self.server = BundleServer(self.settings, self.shelf, self.authority)
        self.server.__enter__()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}{URL_PREFIX}"

    def path(self, name: str) -> str:
        return f"{URL_PREFIX}/{self.bundle.id}/{name}"

    def device(self, name: str, *, authority: Authority | None = None, ago_s: float = 0) -> TlsFiles:
        """Return the files of a device with a certificate."""
        signer, key_file = authority or self.authority, self.folder / f"{name}.key"
        request = make_request(name, make_key(key_file))
        verify_key = SigningKey(bytes(32)).public.raw
        made = signer.issue(name, request, verify_key=verify_key, life_s=86_400, unix_s=time.time() - ago_s)
        self.serials[name] = int(made.serial, 16)
        path = key_file.with_suffix(".pem")
        path.write_bytes(b"".join(ssl.DER_cert_to_PEM_cert(der).encode() for der in signer.chain(made.der)))
        return TlsFiles(root=self.folder / "ca" / "root.pem", certificate=path, key=key_file)

    def get(
        self, path: str, *, files: TlsFiles | None = None, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body."""
        context = client_context(files or self.tls)
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=WAIT_S, context=context)
        try:
            connection.putrequest(method, path)
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def close(self) -> None:
        self.server.__exit__()
