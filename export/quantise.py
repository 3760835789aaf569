"""Pass: the frozen weights take values that few bits can store, in the model itself, before anything is traced.

The model is changed in place to the values that a device will compute with, and a table says how each of them is
stored. So PyTorch's side of the parity check, the forward and the backward all use the same weights, and the check
keeps its tolerances. (Storing a second, separately rounded copy of each weight for the backward made 4 bits drift: the
gradient was that of another model.)

    fp16   every large weight as float16
    int8   one scale a row
    nb8    8 bits, one scale for about 32 values along the inner axis
    nb4    4 bits, likewise; each scale is the best of a small grid
    Embedding tables have one int8 scale a row in the last three: a row is read, never multiplied.

A weight is cut into blocks of equal length (32 where that divides its rows, else the divisor next to it), and the codes
are a matrix of a block a row. One scale a row of a matrix is what a runtime widens in one vectorised pass; blocks as
``DequantizeLinear`` has them since opset 21 took seven times as long (docs/adr/0026).

In 4 bits a byte holds a value of the first half of the blocks in its upper four bits and one of the second half in its
lower four. The first is read as the WHOLE byte: its four bits were chosen knowing what lies below them, so the values
that it can take are 16 apart as ever, only begin elsewhere each time (as with a known dither). So half of the values
need no unpacking, and the other half one shift.

A weight of more than ``MOST_WIDENED`` values is cut along its longer axis into pieces that are stored each for itself,
and multiplied so (``export/pieces.py``): what is widened at a time is bounded by it, or by a sixteenth of the weight. A
feed-forward's weights are cut where they are smaller, too: between them goes what takes most memory, strip by strip
(``export/strips.py``).

Laws: a stored weight gives exactly the float32 values in the model, by one multiplication a value; what is trained and
what is small is left alone; deterministic. Memory: one block of rows beside the model.

Source: symmetric round-to-nearest; the grid of scales minimises the squared error of each block, as in Banner et al.
2019 (arXiv:1810.05723) but by search; the dither as in Roberts 1962, Picture coding using pseudo-random noise.
Measured on MiniLM's layers, relative error of the weights at 4 bits: 9.0 % with the largest value as scale, 8.6 % with
the grid, 8.7 % with whole bytes, 10.6 to 16 % for square blocks that could be transposed.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.pytorch_utils import Conv1D

from protocol.errors import ConfigError

__all__ = [
    "LEAST_BYTES",
    "LEAST_PIECE",
    "MIDDLE",
    "MOST_PIECES",
    "MOST_WIDENED",
    "PAGE_BYTES",
    "PRECISIONS",
    "Cut",
    "Precision",
    "Stored",
    "Table",
    "key_of",
    "quantise",
    "stored_as",
]

Precision = Literal["fp32", "fp16", "int8", "nb8", "nb4"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
LEAST_BYTES = 16 * 1024  # of float32; a smaller tensor costs more in notes than it would save
BLOCK = 32  # values a scale: 4 bytes for 16 or 32, a quarter more at 4 bits
# No divisor of a row between these: one scale a row, as for a row of a prime number of values.
LEAST_BLOCK, MOST_BLOCK = 16, 64
# Parts of the largest value that may become the largest code: clipping a little rounds the many more finely.
GRID = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 1.05)
ROWS = 1 << 14  # blocks that are searched at once: bounds the search's memory to some MB
# Values that are widened at once, 2.25 MB of float32: BERT-base's smaller products stay whole.
MOST_WIDENED = 768 * 768
# A weight that is longer than wide, as a feed-forward's are, has up to so many pieces of so many values, if smaller.
# MiniLM's have four. Smaller pieces save less of the activations than their operations take.
MOST_STRIPS, LEAST_PIECE = 4, 384 * 384
MOST_PIECES = 16  # of one weight: each costs a session some operations
# A stored weight begins on a page; 16 kB pages (Apple, some ARM) can still map from a multiple of it.
PAGE_BYTES = 4096
MIDDLE = 128  # the byte that stands for 0 where two values share bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One weight as it is stored: a matrix cut into blocks, with a scale each; or its values in float16."""

    codes: NDArray[Any]  # int8 [blocks, width]; uint8 [blocks / 2, width] of pairs; float16 of ``shape``
    bits: int
    scales: NDArray[np.float32] | None  # [blocks]; None: the codes are the values
    shape: tuple[int, ...]  # of the matrix whose rows were cut into blocks
    is_turned: bool = False  # the weight is the transpose of that matrix

    @property
    def transposed(self) -> "Stored":
        """Return a matrix the other way round, of the same codes: the lowering transposes some weights once for all."""
        return replace(self, is_turned=not self.is_turned)

    @property
    def values(self) -> NDArray[np.float32]:
        """Return what the codes stand for, float32 of the weight's shape."""
        values = self.codes.astype(np.float32)
        if self.scales is not None:
            levels = values if self.bits == 8 else _levels(self.codes)
            values = levels * self.scales[:, None]
        values = values.reshape(self.shape)
        return np.ascontiguousarray(values.T) if self.is_turned else values


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One weight as it is stored in pieces."""

    parts: tuple[Stored, ...]
    axis: int  # of the weight, along which the pieces lie side by side
    whole: Stored | None = None  # the same codes together, for those who pick rows

    @property
    def transposed(self) -> "Cut":
        """Return the weight the other way round."""
        whole = None if self.whole is None else self.whole.transposed
        return Cut(parts=tuple(one.transposed for one in self.parts), axis=1 - self.axis, whole=whole)

    @property
    def values(self) -> NDArray[np.float32]:
        """Return what the codes stand for, float32 of the weight's shape."""
        return np.concatenate([one.values for one in self.parts], self.axis)


Table = dict[bytes, Stored | Cut]


def stored_as(table: Table, values: NDArray[np.float32]) -> Stored | Cut | None:
    """Return how a weight is stored, either way round; None: it is no weight that was prepared."""
    found = table.get(key_of(values))
    if found is None and values.ndim == 2:
        found = table.get(key_of(np.ascontiguousarray(values.T)))
        return None if found is None else found.transposed
    return found


def key_of(values: NDArray[np.float32]) -> bytes:
    """Return the name of a weight's content: how the storing pass finds it again in a graph."""
    return hashlib.sha256(repr(values.shape).encode() + np.ascontiguousarray(values).tobytes()).digest()


def quantise(model: nn.Module, precision: Precision) -> Table:
    """Give the frozen weights of ``model`` values that ``precision`` can store; return how each is stored.

    Requires: an adapted model, so that what is trained asks for a gradient.
    Ensures: for each entry, ``key_of(stored.values)`` is its key and a parameter of the model holds these values.

    Raises:
        ConfigError: nothing large is frozen, so there is nothing to store in fewer bits.
    """
    if precision == "fp32":
        return {}
    table: Table = {}
    for weight, kinds in _frozen(model, precision):
        stored = _store_cut(weight.detach().numpy(), kinds, precision)
        values = stored.values
        with torch.no_grad():
            weight.copy_(torch.from_numpy(values))
        table[key_of(values)] = stored
        if isinstance(stored, Cut):
            table |= {key_of(part.values): part for part in stored.parts}
    if not table:
        message = f"--quantize {precision}: no weight of this model is frozen and large, so nothing would be smaller"
        raise ConfigError(message)
    return table


def _frozen(model: nn.Module, precision: Precision) -> Iterator[tuple[nn.Parameter, set[type]]]:
    """Yield every large frozen weight once, with the kinds of module that use it (tied weights have several)."""
    kinds: dict[int, set[type]] = defaultdict(set)
    weights: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            known = isinstance(module, (nn.Linear, Conv1D, nn.Embedding)) and weight.dim() == 2
            if (known or precision == "fp16") and not weight.requires_grad and 4 * weight.numel() >= LEAST_BYTES:
                weights[id(weight)] = weight
            kinds[id(weight)].add(type(module))
    for name, weight in weights.items():
        yield weight, kinds[name]


def _store_cut(values: NDArray[np.float32], kinds: set[type], precision: Precision) -> Stored | Cut:
    """Return a weight as it is stored, in pieces where it is multiplied and wide."""
    products = {kind for kind in kinds if issubclass(kind, (nn.Linear, Conv1D))}
    if _n_pieces(values.shape) == 1 or not products:
        return _store(values, kinds, precision)
    if kinds - products:  # a table that is multiplied too: its rows are cut as they are stored
        return _cut_table(_store(values, kinds, precision))
    axis = int(values.shape[1] > values.shape[0])
    parts = [_store(np.take(values, piece, axis), kinds, precision) for piece in _pieces(values, axis, step=2 * BLOCK)]
    return Cut(parts=tuple(parts), axis=axis)


def _cut_table(whole: Stored) -> Stored | Cut:
    """Return rows of a table, each a view of what is stored; the table is whole if a reader takes it transposed."""
    if whole.codes.shape != whole.shape or whole.is_turned:
        return whole
    row_bytes = whole.codes.shape[1] * whole.codes.itemsize
    pieces = _pieces(whole.codes, 0, step=PAGE_BYTES // math.gcd(PAGE_BYTES, row_bytes))
    parts = [_rows_of(whole, slice(piece.start, piece.stop)) for piece in pieces]
    return Cut(parts=tuple(parts), axis=0, whole=whole)


def _rows_of(whole: Stored, rows: slice) -> Stored:
    scales = None if whole.scales is None else whole.scales[rows]
    codes = whole.codes[rows]
    return replace(whole, codes=codes, scales=scales, shape=codes.shape)


def _n_pieces(shape: tuple[int, ...]) -> int:
    size, strips = math.prod(shape), min(max(shape) // min(shape), MOST_STRIPS)
    return min(max(-(-size // MOST_WIDENED), min(strips, size // LEAST_PIECE), 1), MOST_PIECES)


def _pieces(values: NDArray[Any], axis: int, *, step: int) -> list[range]:
    """Return the indices along ``axis`` of equal pieces that begin at multiples of ``step``; the last has the rest."""
    length = values.shape[axis]
    longest = -(-length // _n_pieces(values.shape))
    longest += -longest % step
    return [range(start, min(start + longest, length)) for start in range(0, length, longest)]


def _store(values: NDArray[np.float32], kinds: set[type], precision: Precision) -> Stored:
    if precision == "fp16":
        return Stored(codes=values.astype(np.float16), bits=16, scales=None, shape=values.shape)
    is_table = any(issubclass(kind, nn.Embedding) for kind in kinds)
    is_turned = not is_table and any(issubclass(kind, Conv1D) for kind in kinds)  # it sums over the first axis
    matrix = values.T if is_turned else values
    by_row = precision == "int8" or is_table
    blocks = np.ascontiguousarray(matrix).reshape(-1, matrix.shape[1] if by_row else _block(matrix.shape[1]))
    if by_row or precision == "nb8" or len(blocks) % 2:  # an odd block has nobody to share bytes with
        codes, scales = _in_pieces(_in_8_bits, blocks)
        return Stored(codes=codes, bits=8, scales=scales, shape=matrix.shape, is_turned=is_turned)
    half = len(blocks) // 2
    lower, scales = _in_pieces(_in_lower_4_bits, blocks[half:])
    codes, upper_scales = _in_pieces(_in_upper_4_bits, blocks[:half], lower)
    scales = np.concatenate([upper_scales, scales])
    return Stored(codes=codes, bits=4, scales=scales, shape=matrix.shape, is_turned=is_turned)


def _block(width: int) -> int:
    """Return how many values share a scale: the divisor of a row's length that is nearest to ``BLOCK``."""
    found = [n for n in range(LEAST_BLOCK, MOST_BLOCK + 1) if width % n == 0]
    return min(found, key=lambda n: (abs(n - BLOCK), n), default=width)


def _levels(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the numbers that bytes of pairs stand for, float32 [blocks, width]: whole bytes, then lower halves."""
    return np.concatenate([codes, codes << 4]).astype(np.float32) - MIDDLE


_Rounded = tuple[NDArray[Any], NDArray[np.float32]]  # codes [n, width] and a scale a block [n]


def _in_pieces(rounding: Callable[..., _Rounded], *arrays: NDArray[Any]) -> _Rounded:
    """Round ``ROWS`` blocks at a time."""
    starts = range(0, len(arrays[0]), ROWS)
    pieces = [rounding(*(array[start : start + ROWS] for array in arrays)) for start in starts]
    return np.concatenate([codes for codes, _ in pieces]), np.concatenate([scales for _, scales in pieces])


def _in_8_bits(blocks: NDArray[np.float32]) -> _Rounded:
    """Return int8 codes from -127 to 127."""
    scales = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
    scales[scales == 0] = 1.0
    return np.clip(np.rint(blocks / scales), -127, 127).astype(np.int8), scales[:, 0]


def _in_lower_4_bits(blocks: NDArray[np.float32]) -> _Rounded:
    """Return uint8 codes from 0 to 15; a level is 16 times the code less ``MIDDLE``, as the shift gives it."""
    return _search(blocks, np.zeros(blocks.shape, np.float32))


def _in_upper_4_bits(blocks: NDArray[np.float32], lower: NDArray[np.uint8]) -> _Rounded:
    """Return whole bytes over what lies in their lower halves."""
    codes, scales = _search(blocks, lower.astype(np.float32))
    return codes * 16 + lower, scales


def _search(blocks: NDArray[np.float32], below: NDArray[np.float32]) -> _Rounded:
    """Return codes from 0 to 15 and the best scale of the grid, where a level is 16 code + below - MIDDLE."""
    largest = blocks[np.arange(len(blocks)), np.abs(blocks).argmax(1)][:, None]  # [n, 1], signed
    best = np.full((len(blocks), 1), np.inf, np.float32)
    codes, scales = np.zeros(blocks.shape, np.uint8), np.ones((len(blocks), 1), np.float32)
    # The codes reach one step further on the negative side: either sign of the scale may be the better one.
    for end in (part * sign for part in (112.0, 120.0, 128.0) for sign in (1, -1)):
        for part in GRID:
            scale = (largest * np.float32(part / end)).astype(np.float32)
            scale[scale == 0] = 1.0
            rounded = np.clip(np.rint((blocks / scale + (MIDDLE - below)) / 16), 0, 15)
            error = np.square((16 * rounded + below - MIDDLE) * scale - blocks).sum(1, keepdims=True)
            better = error < best
            best = np.where(better, error, best)
            codes = np.where(better, rounded, codes).astype(np.uint8)
            scales = np.where(better, scale, scales)
    return codes, scales[:, 0]
