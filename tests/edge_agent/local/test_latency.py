from __future__ import annotations

from edge_agent.local.latency import KEPT, Latency


def test_percentiles_by_the_nearest_rank() -> None:
    latency = Latency()
    assert latency.percentiles() is None
    for ms in range(100, 0, -1):
        latency.add(ms / 1000)
    found = latency.percentiles()
    assert found is not None
    assert (found.n, found.p50_ms, found.p95_ms) == (100, 50.0, 95.0)


def test_only_the_last_ones_count() -> None:
    latency = Latency()
    for ms in [1000] * 10 + [1] * KEPT:
        latency.add(ms / 1000)
    found = latency.percentiles()
    assert found is not None
    assert (found.n, found.p95_ms) == (KEPT, 1.0)
