"""Labels: read back by a decoder that is not the encoder's, from the code alone and from a browser's picture."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import matplotlib.image
import numpy as np
import pytest
import segno
import zxingcpp

from deploy.flash.batch import MadeImage
from deploy.flash.labels import SHEETS, label_text, sheet_html, sheet_named
from protocol.errors import ConfigError
from tests.browser import Browser

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TOKEN = "edgefold1-" + "pmVmbGVldGRob21lZ3dlbGNvbWVYIA" * 6


def made(device: str = "shop-001", fleet: str = "home") -> MadeImage:
    return MadeImage(
        device=device, fleet=fleet, image="a.img", n_bytes=1, sha256="0123456789ab" + "f" * 52, token_id="0"
    )


def decoded(picture: NDArray[np.uint8]) -> list[str]:
    return sorted(one.text for one in zxingcpp.read_barcodes(picture))


def test_a_code_says_what_the_label_says_and_no_secret() -> None:
    label = label_text(made())
    assert label.code == "shop-001\nfleet home\nimage 0123456789ab"
    assert label.code.split("\n") == [label.device, *label.lines]
    matrix = np.array(list(segno.make(label.code, micro=False).matrix_iter(scale=4, border=4)), dtype=np.uint8)
    assert decoded(((1 - matrix) * 255).astype(np.uint8)) == [label.code]


def test_an_address_or_a_token_takes_the_texts_place() -> None:
    label = label_text(made(), url="https://fleet.example/{fleet}/{device}?from=label")
    assert label.code == "https://fleet.example/home/shop-001?from=label"
    secret = label_text(made(), token=TOKEN)
    assert secret.code == TOKEN
    assert "SECRET until used" in secret.lines
    for url in ("javascript:alert(1)", "https://a b", "ftp://x"):
        with pytest.raises(ConfigError, match="expected https"):
            label_text(made(), url=url)
    with pytest.raises(ConfigError, match="one of them"):
        label_text(made(), url="https://x", token=TOKEN)


@pytest.mark.parametrize("name", SHEETS)
def test_a_sheet_fits_on_a4(name: str) -> None:
    sheet = sheet_named(name)
    right = sheet.left_mm + sheet.columns * sheet.width_mm + (sheet.columns - 1) * sheet.gap_mm
    assert right <= 210.0
    assert sheet.top_mm + sheet.rows * sheet.height_mm <= 297.0


def test_places_that_are_used_and_sheets_that_are_full() -> None:
    page = sheet_html([label_text(made(f"shop-{n}")) for n in range(20)], sheet_named("plain"), skip=2)
    assert page.count('<section class="page">') == 2
    assert page.count("<div></div>") == 2
    assert page.count("<svg") == 20
    with pytest.raises(ConfigError, match="a sheet has 21"):
        sheet_html([], sheet_named("plain"), skip=21)
    with pytest.raises(ConfigError, match="expected 63"):
        sheet_named("letter")


def test_nothing_is_fetched_and_names_are_no_html() -> None:
    page = sheet_html([label_text(made(fleet="<b>&home"))], sheet_named("70x37"))
    assert "&lt;b&gt;&amp;home" in page
    assert not re.search(r"https?:|url\(|<script|<link|src=", page)


def test_a_code_too_fine_to_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="too fine"):
        sheet_html([label_text(made(), token="x" * 1500)], sheet_named("70x37"))


@pytest.mark.parametrize("name", ["63.5x38.1", "plain"])
def test_every_label_is_read_from_the_browsers_picture(tmp_path: Path, name: str) -> None:
    devices = [f"shop-{n:03}" for n in range(1, 20)] + [
        "a-name-as-long-as-names-may-be-with-all-of-the-sixty-four-lette"
    ]
    labels = [label_text(made(one)) for one in devices] + [label_text(made("by-token"), token=TOKEN)]
    (tmp_path / "labels.html").write_text(sheet_html(labels, sheet_named(name)))
    with Browser(width=794, height=1123) as browser:  # A4 at 96 dots an inch
        browser.open((tmp_path / "labels.html").as_uri())
        browser.wait("document.readyState === 'complete' && document.querySelector('svg')")
        browser.picture(tmp_path / "labels.png")
        assert not browser.errors
    picture = matplotlib.image.imread(tmp_path / "labels.png")
    assert decoded((picture[..., :3] * 255).astype(np.uint8)) == sorted(one.code for one in labels)
