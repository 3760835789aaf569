"""Every error of edgefold, by whose fault it is and so by what the caller must do.

    EdgefoldError
    ├── ConfigError            the user's: exit at start with one line
    ├── LocalProtocolError     ours, a bug: stop
    ├── RemoteProtocolError    the peer's: drop the input, count it by ``reason``
    │   ├── MalformedMessageError   bytes that are no message of ours
    │   ├── MessageTooLargeError    longer than its bound
    │   ├── BadSignatureError       not signed by who it claims to be from
    │   ├── SealError               cannot be opened, or opened for another purpose
    │   └── UpdateError             opened, but no update for this adapter
    ├── TransportError         the link's: retry with jitter, bounded
    ├── StorageError           the disk's or database's: keep the last good state
    ├── TrustError             refuse, report, never retry blindly
    │   └── BundleError             a bundle that is not what its manifest says
    └── EngineError            the training runtime failed or ran out of its budget

Laws: a message says what was expected, what came, and which key, tensor or file; never keys, user data or gradients.
"""

from __future__ import annotations

__all__ = [
    "BadSignatureError",
    "BundleError",
    "ConfigError",
    "EdgefoldError",
    "EngineError",
    "LocalProtocolError",
    "MalformedMessageError",
    "MessageTooLargeError",
    "RemoteProtocolError",
    "SealError",
    "StorageError",
    "TransportError",
    "TrustError",
    "UpdateError",
]


class EdgefoldError(Exception):
    """Base of all errors that edgefold raises on purpose."""


class ConfigError(EdgefoldError):
    """A configuration, argument or file of the user's is wrong; say which, and what to do."""


class LocalProtocolError(EdgefoldError):
    """Our own code broke the protocol: a bug."""


class RemoteProtocolError(EdgefoldError):
    """A peer's input is refused.

    Attributes:
        reason: the name under which the refusal is counted; one of ``protocol.reasons.REASONS``.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        """Keep the countable ``reason`` beside the text."""
        super().__init__(message)
        self.reason = reason


class MalformedMessageError(RemoteProtocolError):
    """The bytes are not a message of this version, or a field breaks its bound."""

    def __init__(self, message: str, *, reason: str = "malformed") -> None:
        """Count as ``malformed`` unless a closer reason is given."""
        super().__init__(message, reason=reason)


class MessageTooLargeError(RemoteProtocolError):
    """The message is longer than its bound; nothing of it was decoded.

    Attributes:
        n_bytes: how long it was.
        max_bytes: the bound.
    """

    def __init__(self, message: str, *, n_bytes: int, max_bytes: int) -> None:
        """Keep both lengths."""
        super().__init__(message, reason="oversize")
        self.n_bytes = n_bytes
        self.max_bytes = max_bytes


class BadSignatureError(RemoteProtocolError):
    """The signature does not belong to the claimed sender and these exact bytes."""

    def __init__(self, message: str) -> None:
        """Count as ``bad-signature``."""
        super().__init__(message, reason="bad-signature")


class SealError(RemoteProtocolError):
    """A sealed payload does not open under this key and this binding."""

    def __init__(self, message: str) -> None:
        """Count as ``bad-seal``."""
        super().__init__(message, reason="bad-seal")


class UpdateError(RemoteProtocolError):
    """An opened update is no update for this adapter: wrong shape, not finite, bad encoding."""


class TransportError(EdgefoldError):
    """The link to the broker failed; retrying later may help."""


class StorageError(EdgefoldError):
    """A file or the database could not be read or written."""


class TrustError(EdgefoldError):
    """Something is not what it claims to be; do not use it and do not retry blindly."""


class BundleError(TrustError):
    """A bundle's files are not what its manifest says, or its manifest is not ours."""


class EngineError(EdgefoldError):
    """The training runtime failed, was killed, or overran its time or memory."""
