"""A sheet of labels to print and stick onto devices: one file of HTML, which any browser prints, with QR codes in it.

A label says who the device is, its fleet, and the beginning of its image's SHA-256; the QR code says the same as plain
text, or opens a page of the operator's, so that whoever stands before a device with a telephone knows which it is and
can look it up. A one-time token is only in it where it was asked for. Nothing in the file is fetched from elsewhere.
QR codes: ISO/IEC 18004, by segno, with error correction Q (a quarter may be scratched) unless the code gets too fine.
"""

from __future__ import annotations

import html
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.flash.batch import MadeImage

__all__ = ["SHEETS", "LabelText", "Sheet", "label_text", "sheet_html", "sheet_named"]

_HASH_CHARS: Final = 12
_QUIET_MODULES: Final = 4  # ISO/IEC 18004: the margin that a reader needs
_MIN_MODULE_MM: Final = 0.33  # what a 300 dpi printer draws sharply and a telephone sees at arm's length
_PADDING_MM: Final = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A sheet of labels on A4, 210 mm x 297 mm.

    Attributes:
        name: what ``--label-sheet`` takes.
        columns, rows: of labels.
        width_mm, height_mm: of a label.
        left_mm, top_mm: from the paper's edge to the first label.
        gap_mm: between columns; rows touch.
        has_cutting_lines: for plain paper.
    """

    name: str
    columns: int
    rows: int
    width_mm: float
    height_mm: float
    left_mm: float
    top_mm: float
    gap_mm: float = 0.0
    has_cutting_lines: bool = False

    @property
    def size(self) -> int:
        """Labels on a sheet."""
        return self.columns * self.rows


# name: columns, rows, width, height, left, top, gap between columns; as the makers of label sheets draw them.
_SHEETS: Final = {
    "63.5x38.1": (3, 7, 63.5, 38.1, 7.25, 15.15, 2.5),
    "70x37": (3, 8, 70.0, 37.0, 0.0, 0.5, 0.0),
    "99.1x38.1": (2, 7, 99.1, 38.1, 4.65, 15.15, 2.5),
    "plain": (3, 7, 62.0, 38.0, 12.0, 15.0, 0.0),
}
SHEETS: Final = {
    name: Sheet(
        name=name,
        columns=columns,
        rows=rows,
        width_mm=width,
        height_mm=height,
        left_mm=left,
        top_mm=top,
        gap_mm=gap,
        has_cutting_lines=name == "plain",
    )
    for name, (columns, rows, width, height, left, top, gap) in _SHEETS.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelText:
    """One label: lines for people, and what the code says."""

    device: str
    lines: tuple[str, ...]
    code: str


def sheet_named(name: str) -> Sheet:
    """Return the sheet.

    Raises:
        ConfigError: there is none of this name (the user's fault).
    """
    found = SHEETS.get(name)
    if found is None:
        raise ConfigError(f"--label-sheet {name}: expected {', '.join(SHEETS)}")
    return found


def label_text(made: MadeImage, *, url: str | None = None, token: str | None = None) -> LabelText:
    """Return what a device's label says.

    Args:
        made: its image.
        url: opened by the code in place of the text; ``{device}`` and ``{fleet}`` in it are replaced.
        token: put into the code, and said so on the label; whoever reads it may enrol in the device's place.

    Raises:
        ConfigError: an address that is none, or an address and a token (the user's fault).
    """
    lines = [f"fleet {made.fleet}", f"image {made.sha256[:_HASH_CHARS]}"]
    if url is not None and token is not None:
        raise ConfigError("--label-url, --label-token: a code holds one of them")
    if token is not None:
        return LabelText(device=made.device, lines=(*lines, "SECRET until used"), code=token)
    if url is None:
        return LabelText(device=made.device, lines=tuple(lines), code="\n".join((made.device, *lines)))
    if not url.startswith(("https://", "http://")) or not url.isascii() or any(one.isspace() for one in url):
        raise ConfigError(f"--label-url {url}: expected https://..., with {{device}} where the name goes")
    code = url.replace("{device}", made.device).replace("{fleet}", made.fleet)
    return LabelText(device=made.device, lines=tuple(lines), code=code)


def sheet_html(labels: Sequence[LabelText], sheet: Sheet, *, skip: int = 0) -> str:
    """Return a page of HTML that prints as sheets of A4.

    Args:
        labels: in their order, row by row.
        sheet: how the paper is cut.
        skip: places of the first sheet that are used already.

    Raises:
        ConfigError: ``skip`` is no place of a sheet, or a code does not fit its label (the user's fault).
    """
    if not 0 <= skip < sheet.size:
        raise ConfigError(f"--label-skip {skip}: a sheet has {sheet.size} labels")
    places: list[LabelText | None] = [*(None for _ in range(skip)), *labels]
    pages = [places[start : start + sheet.size] for start in range(0, len(places), sheet.size)]
    body = "".join(_page(one, sheet) for one in pages)
    title = html.escape(f"{labels[0].device} to {labels[-1].device}" if labels else "labels")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title>\n<style>\n{_style(sheet)}</style></head>\n<body>\n{body}</body></html>\n"
    )


def _page(places: Sequence[LabelText | None], sheet: Sheet) -> str:
    cells = "".join("<div></div>\n" if one is None else _cell(one, sheet) for one in places)
    return f'<section class="page">\n{cells}</section>\n'


def _cell(label: LabelText, sheet: Sheet) -> str:
    lines = "".join(f"<span>{html.escape(one)}</span>" for one in label.lines)
    # A name may have 64 letters: it is broken anywhere, and set smaller.
    size = " class=long" if len(label.device) > 16 else ""
    said = f"<p><b{size}>{html.escape(label.device)}</b>{lines}</p>"
    return f'<div class="label">{_code(label.code, sheet)}{said}</div>\n'


def _code(text: str, sheet: Sheet) -> str:
    import segno  # noqa: PLC0415 - of the extra flash, and for batches alone

    side_mm = min(sheet.height_mm, sheet.width_mm / 2) - 2 * _PADDING_MM
    for error in ("Q", "M", "L"):
        try:
            code = segno.make(text, micro=False, error=error, boost_error=False)
        except segno.DataOverflowError:
            continue
        if side_mm / (code.symbol_size(border=_QUIET_MODULES)[0]) >= _MIN_MODULE_MM:
            out = io.BytesIO()
            code.save(out, kind="svg", border=_QUIET_MODULES, xmldecl=False, svgns=False, nl=False, omitsize=True)
            return out.getvalue().decode("utf-8")
    raise ConfigError(f"a code of {len(text)} characters is too fine for labels {sheet.name}; take a larger sheet")


def _style(sheet: Sheet) -> str:
    side = min(sheet.height_mm, sheet.width_mm / 2)
    border = "outline: 0.2mm dashed #999; " if sheet.has_cutting_lines else ""
    return (
        "@page { size: A4 portrait; margin: 0 }\n"
        "* { box-sizing: border-box; margin: 0 }\n"
        "body { font: 9pt/1.25 system-ui, sans-serif; color: #000; background: #fff }\n"
        f".page {{ width: 210mm; height: 297mm; padding: {sheet.top_mm}mm 0 0 {sheet.left_mm}mm; overflow: hidden; "
        f"display: grid; grid-template-columns: repeat({sheet.columns}, {sheet.width_mm}mm); "
        f"grid-auto-rows: {sheet.height_mm}mm; column-gap: {sheet.gap_mm}mm; break-after: page }}\n"
        ".page:last-child { break-after: auto }\n"
        f".label {{ {border}display: flex; align-items: center; padding: {_PADDING_MM}mm; overflow: hidden }}\n"
        f".label svg {{ flex: none; width: {side - 2 * _PADDING_MM}mm; height: {side - 2 * _PADDING_MM}mm }}\n"
        ".label p { min-width: 0; overflow-wrap: anywhere }\n"
        ".label b { display: block; font-size: 12pt; line-height: 1.15; margin-bottom: 1mm }\n"
        ".label b.long { font-size: 8pt }\n"
        ".label span { display: block; font-size: 8pt }\n"
    )
