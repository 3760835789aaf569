"""``[http]``: the page, the admin interface and the metrics. Without the table nothing of it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from protocol.fields import FieldError, Length, Range

__all__ = ["HttpSettings"]

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Where the service answers HTTP, and how much it takes.

    Attributes:
        host: the address to listen on.
        port: 0 takes a free one, for tests.
        tls: ``authority`` shows the certificate that the fleet's authority made for the broker.
        behind_proxy: something in front ends TLS; allows another address than loopback without it.
        max_body_bytes: of a request.
        max_connections: at once; more are answered 503.
        min_free_bytes: with less free disk ``/readyz`` says no.
    """

    host: Annotated[str, Length(1, 255)] = "127.0.0.1"
    port: Annotated[int, Range(0, 65535)] = 8080
    tls: Literal["off", "authority"] = "off"
    behind_proxy: bool = False
    max_body_bytes: Annotated[int, Range(1024, 1 << 24)] = 1 << 16  # a task's settings fit in a few kB
    max_connections: Annotated[int, Range(1, 10_000)] = 128
    min_free_bytes: Annotated[int, Range(0, 1 << 50)] = 256 << 20  # some rounds of a small fleet

    def __post_init__(self) -> None:
        """Refuse to send tokens in the clear over a network."""
        if self.host not in _LOOPBACK and self.tls == "off" and not self.behind_proxy:
            raise FieldError(
                f'host: {self.host} is reached from elsewhere, which needs tls = "authority", or '
                "behind_proxy = true where a proxy in front ends TLS"
            )
