"""Puts together the bundles of a device from its settings: those copied by hand, those fetched, and the fetching."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.adapters.fetched_bundles import FetchedBundles
from edge_agent.self_test import try_bundle
from host.bundle_folder import open_bundle
from host.engines import choose_engine
from host.logs import event as log
from protocol.errors import ConfigError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

    from edge_agent.bundle_fetch import BundleFetch
    from edge_agent.config import AgentConfig
    from host.bundle_folder import Bundle

__all__ = ["DeviceBundles"]

_MB = 2**20
_TRIAL_S = 300.0  # nobody waits for it, and a slow board takes its time to start a trainer


class DeviceBundles:
    """The checked bundles at the start, and the engine that trains each."""

    def __init__(self, here: Path, config: AgentConfig, *, url: str | None) -> None:
        """Open and check all of them; ``url`` is where others may be fetched.

        Raises:
            BundleError: one that was copied by hand is damaged (the user's fault).
            ConfigError: one of these has no engine here; or there is none and nowhere to fetch one.
        """
        self._here, self._config, self._url = here, config, url
        settings = config.bundles
        self.engines: dict[str, str] = {}
        self.folders: dict[str, Path] = {}
        for name in config.device.bundles:
            self._take(open_bundle(here / name))
        if url is None and not config.device.bundles:
            raise ConfigError(
                "device.bundles: missing; this device was not told where to fetch bundles (bundles.url; the service's "
                "[bundles] table tells devices that enrol)"
            )
        self._fetched = FetchedBundles(
            here / settings.folder, max_bytes=settings.max_mb * _MB, free_bytes=settings.free_mb * _MB
        )
        for bundle in self._fetched.load():
            try:
                self._take(bundle)
            except ConfigError as error:
                log("bundle-unusable", bundle_id=bundle.id, error=str(error))

    def fetch(self, tls: Callable[[], ssl.SSLContext] | None, wake: Callable[[], None]) -> BundleFetch | None:
        """Return what fetches others, None if nothing can be fetched.

        Raises:
            ConfigError: the address is no good (the user's fault).
        """
        if self._url is None or tls is None:
            return None
        from edge_agent.adapters.https_files import HttpsFiles  # noqa: PLC0415 - a device that fetches none
        from edge_agent.bundle_fetch import BundleFetch  # noqa: PLC0415 - does without it

        return BundleFetch(self._fetched, HttpsFiles(self._url, tls), take=self._take, wake=wake, test=self._try)

    def _try(self, bundle: Bundle) -> None:
        """Let a trainer score two examples with a bundle that was just fetched.

        Raises:
            EngineError, BundleError: it does not work here.
        """
        try:
            try_bundle(bundle, self._here, self._config, deadline_s=_TRIAL_S)
        except ConfigError as error:  # no examples yet, or others than it needs: its owner can mend that
            log("bundle-not-tried", bundle_id=bundle.id, error=str(error))
        else:
            log("bundle-tried", bundle_id=bundle.id)

    def _take(self, bundle: Bundle) -> None:
        name = choose_engine(self._config.trainer.engine, bundle.manifest.engines)
        log("engine-chosen", bundle=bundle.id[:12], engine=name, offered=sorted(bundle.manifest.engines))
        self.engines[str(bundle.folder)] = name
        self.folders[bundle.id] = bundle.folder
