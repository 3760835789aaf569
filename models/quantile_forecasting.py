"""Forecasting by quantiles: a pretrained forecaster says how likely values are, and is trained on what then came.

To devices this is a forecasting like any other: the forecast is the median, and an evaluation judges that. The exporter
knows another model and another loss for it.

Laws: as ``models.task``; ``loss`` is the mean pinball loss over evenly spaced levels, in units of each window's own
deviation, so that series of any unit and size count alike. The window is chosen at export, up to the model's own.

Source: Koenker & Bassett 1978, doi:10.2307/1913643; twice their loss, which at the median is the absolute error.
"""

import torch
from torch import Tensor, nn

from models.forecasting import LEAST_VARIANCE, example
from models.fracast import FRACAST, Fracast
from models.task import Task

__all__ = ["QUANTILE_FORECASTING", "QuantileForecaster", "loss", "losses", "scores"]


class QuantileForecaster(nn.Module):
    """The task model as a function of tensors alone, which is what can be traced."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a model whose ``forward(series)`` gives quantiles."""
        super().__init__()
        self.model = model

    def forward(self, series: Tensor) -> Tensor:
        """Return quantiles, float32 [batch, horizon, channel, level], of float32 [batch, context, channel] values."""
        quantiles: Tensor = self.model(series)
        return quantiles


def loss(quantiles: Tensor, series: Tensor, future: Tensor) -> Tensor:
    """Return twice the mean pinball loss, float32 [], in units of the windows' deviations."""
    return losses(quantiles, series, future).mean()


def losses(quantiles: Tensor, series: Tensor, future: Tensor) -> Tensor:
    """Return twice the mean pinball loss of each window, float32 [batch], in units of its own deviation."""
    centred = series - series.mean(1, keepdim=True)
    deviation = torch.sqrt((centred * centred).mean(1, keepdim=True) + LEAST_VARIANCE)  # [batch, 1, channel]
    n_levels = quantiles.shape[-1]
    levels = torch.arange(1, n_levels + 1, dtype=quantiles.dtype) / (n_levels + 1)
    above = (future.unsqueeze(-1) - quantiles) / deviation.unsqueeze(-1)  # [batch, horizon, channel, level]
    return 2 * torch.maximum(levels * above, (levels - 1) * above).mean((1, 2, 3))


def scores(quantiles: Tensor, *_inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the median, float32 [batch, horizon, channel], and all quantiles."""
    return quantiles[..., quantiles.shape[-1] // 2], quantiles


QUANTILE_FORECASTING = Task(
    kind="forecasting",
    families=(FRACAST,),
    auto=Fracast,
    has_head=True,
    has_labels=False,
    has_free_window=True,
    inputs=("series",),
    sizes=({0: "batch"}, {0: "batch"}),
    targets=("future",),
    outputs=("forecasts", "quantiles"),
    example=example,
    wrap=QuantileForecaster,
    loss=loss,
    losses=losses,
    score=scores,
)
