"""Forecasting: the next values of a series from a window of it, by a pretrained forecaster whose head is trained along.

Laws: as ``models.task``; ``loss`` is the mean squared error in units of each window's own deviation, so that series of
any unit and size count alike. The window and the horizon are the model's, so only the batch is free.
"""

import torch
from torch import Tensor, nn
from transformers import PatchTSTForPrediction, PretrainedConfig

from models.patchtst import PATCHTST
from models.task import Task

__all__ = ["FORECASTING", "LEAST_VARIANCE", "Forecaster", "example", "loss", "losses"]

LEAST_VARIANCE = 1e-5  # of a window that never changes; PatchTST's own scaler has the same


class Forecaster(nn.Module):
    """The task model as a function of tensors alone, which is what can be traced."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a Hugging Face forecaster, adapted or not."""
        super().__init__()
        self.model = model

    def forward(self, series: Tensor) -> Tensor:
        """Return forecasts, float32 [batch, horizon, channel], of float32 [batch, context, channel] values."""
        forecasts: Tensor = self.model(past_values=series, return_dict=True).prediction_outputs
        return forecasts


def loss(forecasts: Tensor, series: Tensor, future: Tensor) -> Tensor:
    """Return the mean squared error, float32 [], in units of the windows' variances."""
    return losses(forecasts, series, future).mean()


def losses(forecasts: Tensor, series: Tensor, future: Tensor) -> Tensor:
    """Return the mean squared error of each window, float32 [batch], in units of its own variance."""
    centred = series - series.mean(1, keepdim=True)
    variance = (centred * centred).mean(1, keepdim=True) + LEAST_VARIANCE  # [batch, 1, channel]
    errors = forecasts - future  # [batch, horizon, channel]
    return (errors * errors / variance).mean((1, 2))


def example(config: PretrainedConfig, n_examples: int, _n_tokens: int) -> tuple[Tensor, ...]:
    """Return a batch to trace with: series [batch, context, channel] and futures [batch, horizon, channel]."""
    series = torch.arange(n_examples * config.context_length * config.num_input_channels, dtype=torch.float32)
    future = torch.zeros(n_examples, config.prediction_length, config.num_input_channels)
    return series.reshape(n_examples, config.context_length, config.num_input_channels), future


FORECASTING = Task(
    kind="forecasting",
    families=(PATCHTST,),
    auto=PatchTSTForPrediction,
    has_head=True,
    has_labels=False,
    inputs=("series",),
    sizes=({0: "batch"}, {0: "batch"}),
    targets=("future",),
    outputs=("forecasts",),
    example=example,
    wrap=Forecaster,
    loss=loss,
    losses=losses,
    score=lambda forecasts, *_: (forecasts,),
)
