"""What a device sends of a large message: the manifest, then the chunks that are not there, a few at a time.

    begin          -> manifest
    answered       -> up to WINDOW chunks that are neither there nor on their way
    time is up     -> manifest: what is there now?

Laws: a chunk is on its way until the service says that it is there, or the manifest was sent again; a service that
never answered a manifest may not know the kind: after ``SILENT`` of them the whole is sent at once, where the broker
takes it, and then each in turn. Pure: time and bytes are the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from protocol.uploads import unpack_have

if TYPE_CHECKING:
    from protocol.uploads import Upload, Uploaded

__all__ = ["SILENT", "WINDOW", "Uploading"]

WINDOW: Final = 4  # chunks on their way: at 256 kB a megabyte, which a link of 1 Mbit/s takes ten seconds for
SILENT: Final = 2  # manifests without an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploading:
    """One upload as far as it is known here."""

    upload: Upload
    have: frozenset[int] = frozenset()
    on_the_way: frozenset[int] = frozenset()
    n_silent: int = 0  # manifests since the last answer

    @property
    def wants_whole(self) -> bool:
        """Whether it is time to try it without chunks: nobody answers, as a service that knows none."""
        return self.n_silent >= SILENT and self.n_silent % SILENT == 0

    def asked(self) -> Uploading:
        """The manifest, or the whole, was sent: what was on its way may be lost."""
        return replace(self, on_the_way=frozenset(), n_silent=self.n_silent + 1)

    def answered(self, said: Uploaded) -> Uploading:
        """The service said what is there."""
        if said.status != "open":
            have: frozenset[int] = frozenset()
        else:
            have = unpack_have(said.have, self.upload.n_chunks)
        return replace(self, have=have, on_the_way=self.on_the_way - have, n_silent=0)

    def sent(self, index: int) -> Uploading:
        """A chunk is on its way."""
        return replace(self, on_the_way=self.on_the_way | {index})

    def due(self) -> tuple[int, ...]:
        """Return the chunks to send now, lowest first."""
        missing = [one for one in range(self.upload.n_chunks) if one not in self.have and one not in self.on_the_way]
        return tuple(missing[: max(0, WINDOW - len(self.on_the_way))])
