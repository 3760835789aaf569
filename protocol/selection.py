"""Which values of the flat adapter a device trains, and which it sends, under a strategy's terms.

Laws: both ends compute the same from the layout and the terms, so an update holds the sent values alone, in the
layout's order, and says nothing of the others; what is sent is trained; a rank at or above the layout's selects
everything. Without terms everything is both. Bound: one range for each row of a LoRA B, so O(layout) memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from protocol.layout import Layout, TensorSlot
    from protocol.plan import DeviceTerms

__all__ = ["Ranges", "n_update_values", "personal_ranges", "rank_ranges", "sent_ranges", "trained_ranges"]

Ranges: TypeAlias = tuple[tuple[int, int], ...]  # half-open, ascending, in values


def sent_ranges(layout: Layout, terms: DeviceTerms | None) -> Ranges:
    """Return where the values of an update lie in the adapter."""
    if terms is None:
        return ((0, layout.n_params),)
    return _ranges(layout, {*(terms.frozen_roles or ()), *(terms.personal_roles or ())}, terms.lora_rank)


def trained_ranges(layout: Layout, terms: DeviceTerms | None) -> Ranges:
    """Return where the values lie that a device trains."""
    if terms is None:
        return ((0, layout.n_params),)
    return _ranges(layout, set(terms.frozen_roles or ()), terms.lora_rank)


def personal_ranges(layout: Layout, terms: DeviceTerms | None) -> Ranges:
    """Return where the values lie that stay on the device from one round to the next."""
    personal = set(() if terms is None else terms.personal_roles or ())
    return _merged((slot.offset, slot.offset + slot.n_values) for slot in layout.tensors if slot.role in personal)


def rank_ranges(layout: Layout, rank: int | None) -> Ranges:
    """Return where the values lie that an adapter truncated to ``rank`` keeps; the others are zero."""
    return _ranges(layout, (), rank)


def n_update_values(layout: Layout, terms: DeviceTerms | None) -> int:
    """Return how many values an update has: those that are sent, and as many again with control variates."""
    n_sent = sum(end - begin for begin, end in sent_ranges(layout, terms))
    return n_sent * (2 if terms is not None and terms.has_controls else 1)


def _ranges(layout: Layout, without: Container[str], rank: int | None) -> Ranges:
    return _merged(
        one for slot in layout.tensors if slot.role not in without for one in _of_slot(slot, rank) if one[0] < one[1]
    )


def _of_slot(slot: TensorSlot, rank: int | None) -> Iterator[tuple[int, int]]:
    begin, end = slot.offset, slot.offset + slot.n_values
    match (slot.role, slot.shape):
        case ("lora_A", (n_rows, n_in)) if rank is not None and rank < n_rows:
            yield begin, begin + rank * n_in
        case ("lora_B", (_, n_columns)) if rank is not None and rank < n_columns:
            for row in range(begin, end, n_columns):
                yield row, row + rank
        case _:
            yield begin, end


def _merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for begin, end in ranges:
        if merged and merged[-1][1] == begin:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((begin, end))
    return tuple(merged)
