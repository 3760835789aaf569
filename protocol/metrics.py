"""What a device may say of how it learns, beside its update: names, and that each is a finite fraction.

    stream-accuracy     of all labelled examples, each predicted before it was learnt from
    recent-accuracy     of the last hundred
    average-accuracy    over the exams of all stretches of its stream
    forgetting          best accuracy on an exam so far minus now, mean over former stretches
    backward-transfer   accuracy on an exam now minus when its stretch ended, mean over former stretches

Laws: a task names what it asks for and the device's owner what may be told; what both name is sealed inside the update.
Nothing of it goes with a secure sum or under differential privacy: a figure of one device, in the clear for the
service, is what those promise to hide.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from protocol.fields import Length, Range

__all__ = ["METRICS", "DeviceMetrics", "MetricName", "MetricNames"]

MetricName: TypeAlias = Literal[
    "stream-accuracy", "recent-accuracy", "average-accuracy", "forgetting", "backward-transfer"
]
METRICS: Final[tuple[MetricName, ...]] = MetricName.__args__  # type: ignore[attr-defined]  # Literal keeps its choices
MetricNames: TypeAlias = Annotated[tuple[MetricName, ...], Length(1, 16)]
DeviceMetrics: TypeAlias = Annotated[dict[MetricName, Annotated[float, Range(-1.0, 1.0)]], Length(1, 16)]
