"""A fold worker as a process: jobs on standard input, sums on standard output (``python -m aggregator.fold_worker``).

Laws: it knows nothing but its job and where the blobs are; it writes nothing anywhere; it ends when its parent does,
whose end closes its standard input (prctl would end it with the thread that started it, which need not live on).
"""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aggregator.blob_place import open_blobs
from aggregator.blob_settings import ObjectPlace, ObjectStorageSettings
from aggregator.chunk_job import MAX_JOB_BYTES, ChunkJob, pack_sum, sum_chunk
from aggregator.fold_wire import FAILED, SUM, read_frame, write_frame
from protocol.errors import EdgefoldError
from protocol.fields import plain

if TYPE_CHECKING:
    from aggregator.ports import BlobStore

__all__ = ["answer", "place_from", "place_text"]


def place_text(place: Path | ObjectPlace) -> str:
    """Return where the blobs are as one argument of a command; it has no secret."""
    if isinstance(place, ObjectPlace):
        return json.dumps({"bucket": place.bucket, "prefix": place.prefix, "settings": plain(place.settings)})
    return json.dumps({"folder": str(place)})


def place_from(text: str) -> Path | ObjectPlace:
    """Return what ``place_text`` was given."""
    facts: dict[str, Any] = json.loads(text)
    if "folder" in facts:
        return Path(facts["folder"])
    settings = ObjectStorageSettings(**facts["settings"])
    return ObjectPlace(bucket=facts["bucket"], prefix=facts["prefix"], settings=settings)


def answer(job: bytes, blobs: BlobStore) -> tuple[bytes, bytes]:
    """Do one job; return the answer's kind and bytes."""
    try:
        return SUM, pack_sum(sum_chunk(ChunkJob.unpack(job), blobs))
    except (EdgefoldError, MemoryError) as error:
        return FAILED, f"{type(error).__name__}: {error}".encode()


def main() -> None:
    """Answer jobs until the parent is gone."""
    jobs, answers = sys.stdin.buffer, sys.stdout.buffer
    with closing(open_blobs(place_from(sys.argv[1]))) as blobs:
        while True:
            try:
                _, job = read_frame(jobs, max_bytes=MAX_JOB_BYTES)
            except EOFError:
                return
            write_frame(answers, *answer(job, blobs))


if __name__ == "__main__":
    main()
