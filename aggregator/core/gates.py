"""Whether a version is promoted: the comparison with the promoted version before it, and what each version's state is.

Laws: pure; the newest version is the only one that can wait for a verdict, since no round is folded before it; figures
that are missing decide nothing; a version that devices were given is not taken back by a gate that came later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aggregator.core.records import Evaluation, SetScore, Standing, VersionRecord

__all__ = ["VersionStatus", "judge", "promoted_before", "published", "status_of", "statuses"]

VersionStatus: TypeAlias = Literal["promoted", "rejected", "candidate"]


def judge(
    new: Evaluation,
    old: Evaluation,
    *,
    metric: Literal["accuracy", "loss"],
    margin: float,
    sets: Sequence[str] = (),
) -> tuple[bool, str]:
    """Return whether ``new`` may follow ``old``, and why, for the operator."""
    pairs = {name: (new.sets.get(name), old.sets.get(name)) for name in sets}
    figures: dict[str, tuple[float, float] | None] = {
        name: None if a is None or b is None else (_figure(a, metric), _figure(b, metric))
        for name, (a, b) in pairs.items()
    }
    if not sets:
        figures = {"all sets": (_pooled(new, metric), _pooled(old, metric))}
    said, is_good = [], True
    for name, pair in figures.items():
        if pair is None:
            said.append(f"{name}: not measured for both versions")
            is_good = False
            continue
        now, before = pair
        worse_by = before - now if metric == "accuracy" else now - before
        holds = worse_by <= margin
        is_good = is_good and holds
        said.append(f"{metric} on {name} {now:.4g} after {before:.4g}" + ("" if holds else f", beyond {margin:g}"))
    return is_good, f"{'; '.join(said)} (version {old.version})"


def status_of(
    version: VersionRecord, *, newest: int, standings: Mapping[int, Standing], has_gate: bool
) -> VersionStatus:
    """Return what a version is; without a gate every fold is promoted, and so is the bundle's own adapter."""
    known = standings.get(version.version)
    if known is not None:
        return known.status
    waits = has_gate and version.version == newest and version.round is not None
    return "candidate" if waits else "promoted"


def statuses(
    versions: Sequence[VersionRecord], standings: Mapping[int, Standing], *, has_gate: bool
) -> dict[int, VersionStatus]:
    """Return what each version is, by number."""
    newest = versions[-1].version
    return {one.version: status_of(one, newest=newest, standings=standings, has_gate=has_gate) for one in versions}


def published(known: Mapping[int, VersionStatus], *, opened_on: int) -> tuple[int, bool]:
    """Return the version that devices are given, and whether a newer one waits for its verdict.

    Args:
        known: every version's status, by number.
        opened_on: the version of the latest round or buffer, which devices were given whatever its status is.
    """
    newest = max(known)
    given = max([opened_on, *(version for version, status in known.items() if status == "promoted")])
    return given, known[newest] == "candidate" and newest > given


def promoted_before(
    versions: Sequence[VersionRecord], standings: Mapping[int, Standing], *, before: int
) -> VersionRecord:
    """Return the newest promoted version older than ``before``; the bundle's own at the latest."""
    return next(
        one
        for one in reversed(versions)
        if one.version < before
        and (one.version not in standings or standings[one.version].status == "promoted" or one.version == 0)
    )


def _figure(score: SetScore, metric: str) -> float:
    return score.accuracy if metric == "accuracy" else score.loss


def _pooled(evaluation: Evaluation, metric: str) -> float:
    return evaluation.pooled_accuracy if metric == "accuracy" else evaluation.pooled_loss
