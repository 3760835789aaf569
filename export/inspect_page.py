"""Draws what ``inspect`` found as one HTML page that needs nothing else: no script, no font, no address.

Laws: a page is a function of what was found; every text from the bundle is escaped, and the page's own policy forbids
scripts and loading whatever they might still say; drawings are SVG with their figures as text beside them.
"""

from collections.abc import Iterable, Sequence
from html import escape

from export.inspect import Graph, Inspected
from export.tiers import fitting
from protocol.bundle import MemoryPeak

__all__ = ["page"]

MB = 2**20
MOST_BARS = 14  # operators of a graph that get a bar of their own
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 300, 56, 36  # of the drawing of the memory plan, and its margins
COLOURS = ("#1b6ca8", "#c8553d", "#3d8c40", "#8a4fa3", "#a8801b", "#3f7d7d")
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2733; }
h1 { font-size: 1.4rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; } th { font-weight: 600; border-bottom: 1px solid #ccd5dd; }
code, .id { font-family: ui-monospace, monospace; font-size: .85rem; color: #566575; overflow-wrap: anywhere; }
.bar { fill: #1b6ca8; } .quiet { color: #566575; } svg text { font: 12px system-ui, sans-serif; fill: #1c2733; }
.graphs { display: flex; flex-wrap: wrap; gap: 1.5rem; }
@media (prefers-color-scheme: dark) {
  body { background: #12181f; color: #dde5ec; } svg text { fill: #dde5ec; } th { border-color: #3a4652; }
  code, .id, .quiet { color: #93a3b3; }
}
"""


def page(found: Inspected) -> str:
    """Return the whole page."""
    manifest = found.manifest
    title = f"{manifest.task.kind} on {manifest.model.source}"
    again = ", layers computed again" if manifest.checkpointed else ""
    model, adapter = manifest.model, manifest.adapter
    lead = (
        f"{model.family}, {model.n_parameters / 1e6:.1f} M parameters; adapter {adapter.kind}, "
        f"{adapter.n_params:,} parameters; frozen weights {manifest.precision or 'fp32'}{again}"
    )
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="id">bundle {escape(found.id)}</p>',
        f"<p>{escape(lead)}</p>",
        _section("Memory of a trainer, predicted", _memory(found)),
        _section("Devices", _tiers(found)),
        _section("Weights", _weights(found)),
        _section("Graphs", f'<div class="graphs">{"".join(_graph(graph) for graph in found.graphs)}</div>'),
        _section("Adapter, by layer and role", _layout(found)),
        _section("Files", _files(found)),
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{body}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    first = "".join(f"<th>{escape(one)}</th>" for one in head)
    rest = "".join("<tr>" + "".join(f"<td>{escape(str(one))}</td>" for one in row) + "</tr>" for row in rows)
    return f"<table><tr>{first}</tr>{rest}</table>"


def _memory(found: Inspected) -> str:
    """Draw the plan, and that of the graph of single examples where there is one."""
    peaks, single = found.manifest.memory or (), found.manifest.memory_per_example or ()
    if not peaks:
        return '<p class="quiet">The bundle has no memory plan.</p>'
    return _drawn(peaks, found) + (
        f"<h3>With a gradient for each example</h3>{_drawn(single, found)}" if single else ""
    )


def _drawn(peaks: Sequence[MemoryPeak], found: Inspected) -> str:
    """Draw a line a batch over the lengths, and the tier's budget."""
    lengths = list(dict.fromkeys(peak.seq or 0 for peak in peaks))
    batches = list(dict.fromkeys(peak.batch for peak in peaks))
    known = {(peak.batch, peak.seq or 0): peak.peak_bytes / MB for peak in peaks}
    head = ["batch", *(f"{n} tokens" if n else "MB" for n in lengths)]
    rows = [[batch, *(f"{known[batch, n]:.0f} MB" for n in lengths)] for batch in batches]
    drawing = _plan(peaks, found) if len(lengths) > 1 else ""
    return drawing + _table(head, rows)


def _plan(peaks: Sequence[MemoryPeak], found: Inspected) -> str:
    tier = found.manifest.tier
    most = max(peak.peak_bytes for peak in peaks) / MB
    longest = max(peak.seq or 0 for peak in peaks)

    def x(tokens: int) -> float:
        return LEFT + (WIDTH - LEFT - 70) * tokens / longest

    def y(mb: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 12) * mb / most

    marks = []
    for number, batch in enumerate(dict.fromkeys(peak.batch for peak in peaks)):
        line = [(x(p.seq or 0), y(p.peak_bytes / MB)) for p in peaks if p.batch == batch]
        colour, points = COLOURS[number % len(COLOURS)], " ".join(f"{a:.1f},{b:.1f}" for a, b in line)
        marks.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        marks.append(_text(line[-1][0] + 6, line[-1][1] + 4, f"batch {batch}"))
    marks += [_text(LEFT - 6, y(mb) + 4, f"{mb:.0f} MB", "end") for mb in (0.0, most / 2, most)]
    lengths = dict.fromkeys(peak.seq or 0 for peak in peaks)
    marks += [_text(x(tokens), HEIGHT - BOTTOM + 18, str(tokens), "middle") for tokens in lengths]
    if tier is not None and tier.budget_bytes / MB <= most:
        at = y(tier.budget_bytes / MB)
        ends = f'x1="{LEFT}" x2="{WIDTH - 70}" y1="{at:.1f}" y2="{at:.1f}"'
        marks += [f'<line {ends} stroke="#888" stroke-dasharray="6 4"/>', _text(LEFT + 4, at - 4, tier.name)]
    label = "Predicted peak memory over the length of a text, a line a batch"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{label}">{"".join(marks)}</svg>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _tiers(found: Inspected) -> str:
    manifest = found.manifest
    rows = []
    for tier, peak in fitting(manifest.memory or ()):
        shape = "nothing" if peak is None else f"{peak.batch}" + (f" x {peak.seq} tokens" if peak.seq else "")
        needs = "" if peak is None else f"{peak.peak_bytes / MB:.0f} MB"
        made = "made for it" if manifest.tier is not None and manifest.tier.name == tier.name else ""
        rows.append([tier.name, f"{tier.budget_bytes / MB:.0f} MB", shape, needs, made])
    return _table(["tier", "budget", "largest batch", "needs", ""], rows)


def _weights(found: Inspected) -> str:
    total = sum(one.bytes for one in found.weights.values()) or 1
    rows = [
        [name, one.n_tensors, f"{one.n_values:,}", f"{one.bytes / 1e6:.2f} MB", f"{100 * one.bytes / total:.0f} %"]
        for name, one in found.weights.items()
    ]
    return _strip(found, total) + _table(["stored as", "tensors", "values", "bytes", "share"], rows)


def _strip(found: Inspected, total: int) -> str:
    """Draw the weights as one bar, a piece a type."""
    pieces, at = [], 0.0
    for number, (name, one) in enumerate(found.weights.items()):
        width, colour = WIDTH * one.bytes / total, COLOURS[number % len(COLOURS)]
        label = f"<title>{escape(name)}</title>"
        pieces.append(f'<rect x="{at:.1f}" y="0" width="{width:.1f}" height="18" fill="{colour}">{label}</rect>')
        at += width
    head = f'<svg viewBox="0 0 {WIDTH} 22" width="{WIDTH}" role="img" aria-label="Weights by type">'
    return f"{head}{''.join(pieces)}</svg>"


def _graph(graph: Graph) -> str:
    """Draw how often each operator occurs."""
    if not graph.operators:
        return f"<p>{escape(graph.engine)} {escape(graph.file)}: {graph.bytes / 1e6:.1f} MB, of another runtime</p>"
    shown = dict(list(graph.operators.items())[:MOST_BARS])
    others = sum(graph.operators.values()) - sum(shown.values())
    if others:
        shown["others"] = others
    most = max(shown.values(), default=1)
    rows = []
    for place, (name, n) in enumerate(shown.items()):
        y, width = 18 * place, 200 * n / most
        rows += [_text(150, y + 13, name, "end"), _text(160 + width, y + 13, str(n))]
        rows.append(f'<rect class="bar" x="156" y="{y + 3}" width="{width:.1f}" height="12"/>')
    height = 18 * len(shown)
    facts = f"{graph.engine} {graph.file}: {sum(graph.operators.values())} operators, {graph.bytes / 1e3:.0f} kB"
    flow = "<br>".join(
        escape(f"{arrow} " + ", ".join(f"{name} [{', '.join(sizes)}]" for name, sizes in values.items()))
        for arrow, values in (("<-", graph.inputs), ("->", graph.outputs))
    )
    drawing = f'<svg viewBox="0 0 420 {height}" width="420" height="{height}" role="img" aria-label="Operators">'
    return f"<div><p>{escape(facts)}<br><code>{flow}</code></p>{drawing}{''.join(rows)}</svg></div>"


def _layout(found: Inspected) -> str:
    roles = list(found.roles)
    rows = [
        ["no layer" if layer == "-" else layer, *(f"{sizes.get(role, 0):,}" if role in sizes else "" for role in roles)]
        for layer, sizes in found.layers.items()
    ]
    return _table(["layer", *roles], rows)


def _files(found: Inspected) -> str:
    files = found.manifest.files.items()
    return _table(["file", "bytes", "SHA-256"], ([name, f"{one.bytes:,}", one.sha256[:16]] for name, one in files))
