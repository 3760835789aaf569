"""Sample data: sentences from four places with a sentiment label, from the ``vaderSentiment`` source distribution.

Tweets, product reviews, movie reviews and newspaper editorials, each sentence rated by twenty people from -4 to 4; the
label is 1 if the mean rating is above zero. Four domains with one task are four devices with their own kind of text.

Laws: nothing is used whose SHA-256 is not the pinned one (``pinned_file``); of the archive inside only the four named
text files are read, each bounded, none is extracted to a path; the same call gives the same bytes on every machine and
the test set does not depend on the size of the training set. No torch here.

Source: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text",
ICWSM 2014. The package is under the MIT licence; the texts are shipped inside it.
"""

import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.pinned_file import PinnedFile, fetch
from protocol.errors import ConfigError, TrustError

__all__ = ["DOMAINS", "Splits", "fetch_sentiment", "write_splits"]

SDIST: Final = PinnedFile(
    requirement="vaderSentiment==0.5",
    name="vaderSentiment-0.5.zip",
    sha256="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
    # pip builds metadata of a source distribution: with the setuptools that every environment of ours has.
    pip_arguments=("--no-build-isolation", "--no-binary=:all:"),
)

INNER = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
MAX_INNER_BYTES = 4 * 2**20  # it has 2.3 MB
MAX_TEXT_BYTES = 4 * 2**20  # the longest has 1.4 MB
DOMAINS: dict[str, str] = {
    "tweets": "hutto_ICWSM_2014/tweets_GroundTruth.txt",
    "products": "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt",
    "movies": "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
    "editorials": "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt",
}
LEAST_RATING = 0.5  # below, the twenty raters did not agree on a sign


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """The files by domain, JSON lines of ``{"text": str, "label": 0 or 1}``."""

    train: dict[str, Path]
    test: dict[str, Path]


def fetch_sentiment(folder: Path) -> Path:
    """Return the source distribution in ``folder``, fetched unless it is there; errors as in ``pinned_file.fetch``."""
    return fetch(SDIST, folder)


def write_splits(archive: Path, folder: Path, *, n_train: int = 500, n_test: int = 500, seed: int = 0) -> Splits:
    """Write the training and test files of every domain to ``folder``.

    Args:
        archive: what ``fetch_sentiment`` returned.
        folder: made if it is missing.
        n_train: training examples a domain.
        n_test: test examples a domain; the same ones for every ``n_train``.
        seed: orders the examples.

    Raises:
        ConfigError: a domain has fewer examples than asked for.
        TrustError: the archive is not what it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits = Splits(train={}, test={})
    for domain, data in _read_archive(archive).items():
        examples = _shuffled(_examples(data), f"{seed}/{domain}")
        if len(examples) < n_test + n_train:
            message = f"{domain}: {len(examples)} examples, {n_test + n_train} were asked for"
            raise ConfigError(message)
        splits.train[domain] = folder / f"{domain}.train.jsonl"
        splits.test[domain] = folder / f"{domain}.test.jsonl"
        _write(splits.test[domain], examples[:n_test])
        _write(splits.train[domain], examples[n_test : n_test + n_train])
    return splits


def _read_archive(archive: Path) -> dict[str, bytes]:
    """Return the four texts by domain, read in memory: no member decides where anything is written."""
    with zipfile.ZipFile(archive) as outer, outer.open(INNER) as packed:
        inner = packed.read(MAX_INNER_BYTES + 1)
    if len(inner) > MAX_INNER_BYTES:
        message = f"{archive}: {INNER} is longer than {MAX_INNER_BYTES} bytes"
        raise TrustError(message)
    texts = {}
    with tarfile.open(fileobj=io.BytesIO(inner), mode="r:gz") as tar:
        for domain, member in DOMAINS.items():
            file = tar.extractfile(member)  # a stream; nothing touches the disk
            text = file.read(MAX_TEXT_BYTES + 1) if file is not None else b""
            if not 0 < len(text) <= MAX_TEXT_BYTES:
                message = f"{archive}: {member} is empty or longer than {MAX_TEXT_BYTES} bytes"
                raise TrustError(message)
            texts[domain] = text
    return texts


def _examples(data: bytes) -> list[tuple[str, str, int]]:
    """Return (id, text, label) of every sentence that was rated clearly, each text once."""
    examples, seen = [], set()
    for line in data.decode("utf-8", "replace").splitlines():
        number, rating, text = [*line.split("\t", 2), "", ""][:3]
        text = text.strip()
        if not text or text in seen or abs(float(rating)) < LEAST_RATING:
            continue
        seen.add(text)  # a sentence that occurs twice must not be in training and test
        examples.append((number, text, int(float(rating) > 0)))
    return examples


def _shuffled(examples: list[tuple[str, str, int]], salt: str) -> list[tuple[str, str, int]]:
    """Order by a hash: a shuffle that no library's next version can change."""
    return sorted(examples, key=lambda example: hashlib.sha256(f"{salt}/{example[0]}/{example[1]}".encode()).digest())


def _write(path: Path, examples: list[tuple[str, str, int]]) -> None:
    lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n" for _, text, label in examples]
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text("".join(lines), encoding="utf-8")
    partial.replace(path)
