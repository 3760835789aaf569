"""Fracast: one causal filter, used again at ten scales, reads a series; a small decoder gives nine quantiles.

Read top to bottom, a model is::

    window                         scaled to 0..1 by its own least and largest value, 2,048 steps (older ones missing)
    periods                        up to four, where the periodogram has significant peaks; nothing is learned here
    in_proj + periodic             value, whether it was seen, how long ago; sine and cosine of each period's phase
    stages.{0..9}                  gain and bias by the scale, then the one shared block at distance 2^i:
        block.mix                  a causal filter of three taps a channel
        block.pw                   linear, + input, RMSNorm                        <- LoRA
        block.ffn                  up to 2 x 96, SwiGLU, down; + input, RMSNorm    <- LoRA on up and down
    norm
    summary, queries, decoder      one state a future step from mean and last state; SwiGLU; causal filters
    future                         the series as its main period would continue it, read by another such block
    out_proj                       64 to 9 quantiles, the head: trained along

Laws: a function of tensors alone; channels are forecast independently of each other; a window shorter than the model's
is a longer one whose older part was not seen. Periods are computed once (both users see the same series), by a discrete
Fourier transform that is two small matrix products, so that every engine which multiplies can do it; no gradient flows
through them. The filters are shifts and products, since a backward of those is the same again.

Source: the weights and their architecture are of the package ``fracast`` 0.1.0 (Apache-2.0). Its periodogram and phases
are TinyCast's, arXiv:2608.15767; the transform in two steps is Gentleman & Sande 1966, doi:10.1145/1464291.1464352.
"""

import math
import re
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers import initialization as init

from models.family import Family

__all__ = ["FRACAST", "Fracast", "FracastConfig"]

FRACAST = Family(
    name="fracast",
    model_types=frozenset({"fracast"}),
    default_targets=("pw", "up", "down"),
    backbone="fracast",
    heads=("out_proj",),
    layer_pattern=re.compile(r"(?:^|\.)stages\.(\d+)\."),
    ia3_outputs=re.compile(r"(?:^|\.)block\.pw$"),
    ia3_inputs=re.compile(r"\.down$"),
)

N_RECENCY, N_SCALE = 5, 8  # values that say when a step was, and at which scale a stage works
LEAST_SPAN = 1e-5  # of a window that never changes
LEAST_POWER = 1e-12
EPSILON = float(torch.finfo(torch.float32).eps)  # of the norms


class FracastConfig(PretrainedConfig):  # type: ignore[no-untyped-call]  # transformers registers subclasses
    """The sizes of a model; the defaults are those of the release."""

    model_type = "fracast"

    def __init__(  # noqa: PLR0913 - what a configuration file may say
        self,
        *,
        context_length: int = 2048,
        prediction_length: int = 48,
        num_input_channels: int = 1,
        window: int = 2048,
        d_model: int = 64,
        d_inner: int = 96,
        n_stages: int = 10,
        n_future_stages: int = 6,
        n_future_seen: int = 128,
        n_decoder_filters: int = 2,
        n_periods: int = 4,
        n_phases: int = 16,
        significance: float = 0.05,
        n_quantiles: int = 9,
        initializer_range: float = 0.02,
        **others: Any,  # noqa: ANN401 - transformers' own
    ) -> None:
        """Keep the sizes; ``context_length`` steps of a ``window``, a power of two, are given, the older are missing.

        Quantiles are those of levels 1 / (n + 1) .. n / (n + 1), so that of nine the fifth is the median.
        """
        self.context_length, self.prediction_length = context_length, prediction_length
        self.num_input_channels, self.window = num_input_channels, window
        self.d_model, self.d_inner, self.n_stages = d_model, d_inner, n_stages
        self.n_future_stages, self.n_future_seen = n_future_stages, n_future_seen
        self.n_decoder_filters, self.n_periods, self.n_phases = n_decoder_filters, n_periods, n_phases
        self.significance, self.n_quantiles, self.initializer_range = significance, n_quantiles, initializer_range
        super().__init__(**others)


class RmsNorm(nn.Module):
    """Zhang & Sennrich 2019, arXiv:1910.07467."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPSILON) * self.weight


class Filter(nn.Module):
    """A causal filter of three taps, each channel for itself: its taps lie ``distance`` steps apart."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, width))  # the oldest tap first
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, distance: int) -> Tensor:
        n_steps = x.shape[1]
        padded = functional.pad(x, (0, 0, 2 * distance, 0))  # [batch, 2 distance + time, width]
        taps = [padded[:, i * distance : i * distance + n_steps] * self.weight[i] for i in range(3)]
        return taps[0] + taps[1] + taps[2] + self.bias


class SwiGlu(nn.Module):
    """Shazeer 2020, arXiv:2002.05202."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)  # [..., inner] each
        return cast("Tensor", self.down(functional.silu(gate) * value))


class Block(nn.Module):
    """What is done at every scale with the same weights."""

    def __init__(self, config: FracastConfig) -> None:
        super().__init__()
        self.mix = Filter(config.d_model)
        self.pw = nn.Linear(config.d_model, config.d_model)
        self.norm_mix = RmsNorm(config.d_model)
        self.ffn = SwiGlu(config.d_model, config.d_inner)
        self.norm_ffn = RmsNorm(config.d_model)

    def forward(self, x: Tensor, distance: int) -> Tensor:
        x = self.norm_mix(x + self.pw(self.mix(x, distance)))
        return cast("Tensor", self.norm_ffn(x + self.ffn(x)))


class Stage(nn.Module):
    """One scale: what is shared, at this scale's distance. It has no weights, but is a layer to the passes."""

    scale_of: Tensor

    def __init__(self, number: int, n_values: int) -> None:
        super().__init__()
        self.number, self.distance = number, 2**number
        self.register_buffer("scale_of", torch.empty(n_values), persistent=False)
        self.set_constants()

    def set_constants(self) -> None:
        """Compute what no file holds; transformers makes a model empty, fills in its weights, and asks for the rest."""
        angles = self.number / 2.0 ** torch.arange(self.scale_of.shape[0] // 2) * math.pi
        self.scale_of.copy_(torch.cat([angles.sin(), angles.cos()]))

    def forward(self, x: Tensor, scale: nn.Module, block: nn.Module) -> Tensor:
        gain, bias = scale(self.scale_of).chunk(2)  # [width] each
        return cast("Tensor", block(x * (1.0 + gain) + bias, self.distance))


class Periods(nn.Module):
    """Finds periods: the highest significant local peaks of the normalised periodogram; it has no weights.

    The transform of n = a b values x[b i + j] is, in two steps: over i for each j, a turn by j k / n, over j.
    """

    rows: Tensor
    turns: Tensor
    columns: Tensor
    eligible: Tensor
    periods: Tensor

    def __init__(self, config: FracastConfig) -> None:
        super().__init__()
        n = config.window
        self.n, self.n_periods = n, config.n_periods
        self.a = 2 ** (n.bit_length() // 2)
        self.b = n // self.a
        n_bins = n // 2
        self.threshold = math.log(n_bins / config.significance) / n_bins  # Bonferroni's, of white noise
        for name, shape in (
            ("rows", (2, self.a, self.a)),
            ("turns", (2, self.a, self.b)),
            ("columns", (2, self.b, self.b)),
            ("eligible", (n_bins,)),
            ("periods", (n_bins,)),
        ):
            self.register_buffer(name, torch.empty(shape), persistent=False)
        self.set_constants()

    def set_constants(self) -> None:
        """Compute what no file holds; see ``Stage``."""
        self.rows.copy_(_waves(self.a, self.a, self.a))
        self.turns.copy_(_waves(self.a, self.b, self.n))
        self.columns.copy_(_waves(self.b, self.b, self.b))
        self.eligible.fill_(1.0)  # 1 or 0
        self.eligible[[0, -1]] = 0.0  # they have one neighbour: no peaks; so no period is above half the window
        self.periods.copy_(torch.round(self.n / torch.arange(1, self.n // 2 + 1, dtype=torch.float32)))

    def forward(self, series: Tensor) -> Tensor:
        """Return periods in steps, float32 [batch, n_periods], the strongest first; 0: there is no such many."""
        power = self.power(series - series.mean(1, keepdim=True))  # [batch, n / 2]
        share = power / power.sum(1, keepdim=True).clamp(min=LEAST_POWER)
        left = functional.pad(share[:, :-1], (1, 0))
        right = functional.pad(share[:, 1:], (0, 1))
        is_peak = (share > left) & (share > right) & (self.eligible > 0) & (share >= self.threshold)
        height, place = torch.where(is_peak, share, torch.zeros_like(share)).topk(self.n_periods, dim=1)
        found = self.periods[place]  # [batch, n_periods]
        return torch.where(height > 0, found, torch.zeros_like(found))

    def power(self, series: Tensor) -> Tensor:
        """Return |X[k]|^2 for k = 1 .. n / 2, float32 [batch, n / 2], of float32 [batch, n]."""
        grid = series.reshape(-1, self.a, self.b)  # [batch, i, j]
        real, imaginary = self.rows[0] @ grid, self.rows[1] @ grid  # over i: [batch, k_a, j]
        real, imaginary = (
            real * self.turns[0] - imaginary * self.turns[1],
            real * self.turns[1] + imaginary * self.turns[0],
        )
        again = (
            real @ self.columns[0] - imaginary @ self.columns[1],
            real @ self.columns[1] + imaginary @ self.columns[0],
        )  # over j: [batch, k_a, k_b], of frequency k_a + a k_b
        power = again[0] * again[0] + again[1] * again[1]
        return power.transpose(1, 2).reshape(-1, self.n)[:, 1 : self.n // 2 + 1]


class Fracast(PreTrainedModel):
    """The model as transformers loads it: ``forward(series)`` gives quantiles."""

    config_class = FracastConfig
    base_model_prefix = "fracast"
    main_input_name = "series"

    recency: Tensor
    future_recency: Tensor

    def __init__(self, config: FracastConfig) -> None:
        """Make the modules; weights come from a folder."""
        super().__init__(config)
        width, n = config.d_model, config.window
        self.in_proj = nn.Linear(2 + N_RECENCY, width)
        self.find_periods = Periods(config)
        self.periodic = nn.Linear(2 * config.n_periods, width)
        self.scale, self.block = nn.Linear(N_SCALE, 2 * width), Block(config)
        self.stages = nn.ModuleList(Stage(i, N_SCALE) for i in range(config.n_stages))
        self.norm = RmsNorm(width)
        self.summary = nn.Linear(2 * width + N_RECENCY, width)
        self.queries = nn.Parameter(torch.zeros(config.prediction_length, width))
        self.decoder = SwiGlu(width, config.d_inner)
        self.decoder_norm = RmsNorm(width)
        self.filters = nn.ModuleList(Filter(width) for _ in range(config.n_decoder_filters))
        self.filter_norms = nn.ModuleList(RmsNorm(width) for _ in range(config.n_decoder_filters))
        self.future_in = nn.Linear(1 + N_RECENCY, width)
        self.future_block = Block(config)
        self.future_out = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, config.n_quantiles)
        self.register_buffer("recency", torch.empty(n, N_RECENCY), persistent=False)
        self.register_buffer("future_recency", torch.empty(config.prediction_length, N_RECENCY), persistent=False)
        self.post_init()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, Filter):
            init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, Fracast):
            init.normal_(module.queries, std=self.config.initializer_range)
        if isinstance(module, (Stage, Periods, Fracast)):
            module.set_constants()

    def set_constants(self) -> None:
        """Compute what no file holds; see ``Stage``."""
        n, horizon = self.config.window, self.config.prediction_length
        self.recency.copy_(_recency(torch.arange(n), n))
        self.future_recency.copy_(_recency(torch.arange(n, n + horizon), n))

    def forward(self, series: Tensor) -> Tensor:
        """Return quantiles, float32 [batch, horizon, channel, level], of values float32 [batch, context, channel]."""
        n_channels, n = self.config.num_input_channels, self.config.window
        rows = series.transpose(1, 2).reshape(-1, self.config.context_length)  # [batch x channel, context]
        low = rows.amin(1, keepdim=True)
        span = (rows.amax(1, keepdim=True) - low).clamp(min=LEAST_SPAN)  # [batch x channel, 1]
        known = (rows - low) / span
        missing = n - self.config.context_length
        values = functional.pad(known, (missing, 0))  # [batch x channel, window]
        with torch.no_grad():
            # What was not seen is the mean to the periodogram.
            filled = values if not missing else torch.cat([known.mean(1, keepdim=True).expand(-1, missing), known], 1)
            periods = self.find_periods(filled)  # [batch x channel, n_periods]
        states = self._read(values, periods)  # [batch x channel, window, width]
        quantiles = self._decode(states, values, periods) * span.unsqueeze(-1) + low.unsqueeze(-1)
        shape = (-1, n_channels, *quantiles.shape[1:])
        return quantiles.reshape(shape).transpose(1, 2)

    def _read(self, values: Tensor, periods: Tensor) -> Tensor:
        n, missing = self.config.window, self.config.window - self.config.context_length
        is_seen = functional.pad(torch.ones(n - missing), (missing, 0)).expand_as(values)
        recency = self.recency.unsqueeze(0).expand(values.shape[0], -1, -1)
        x = self.in_proj(torch.cat([values.unsqueeze(-1), is_seen.unsqueeze(-1), recency], -1))
        x = x + self.periodic(_phases(n, periods))
        for stage in self.stages:
            x = stage(x, self.scale, self.block)
        return cast("Tensor", self.norm(x))

    def _decode(self, states: Tensor, values: Tensor, periods: Tensor) -> Tensor:
        """Return scaled quantiles, [batch, horizon, quantile]."""
        horizon = self.config.prediction_length
        summary = torch.cat([states.mean(1), states[:, -1]], -1)  # [batch, 2 width]
        recency = self.future_recency.unsqueeze(0).expand(values.shape[0], -1, -1)  # [batch, horizon, 5]
        asked = torch.cat([recency, summary.unsqueeze(1).expand(-1, horizon, -1)], -1)
        x = self.summary(asked) + self.queries  # [batch, horizon, width]
        x = self.decoder_norm(x + self.decoder(x))
        for i, (mix, norm) in enumerate(zip(self.filters, self.filter_norms, strict=True)):
            x = norm(x + mix(x, 2**i))
        filled = self._continued(values, periods[:, :1])  # [batch, horizon]
        future = self.future_in(torch.cat([filled.unsqueeze(-1), recency], -1))
        z = torch.cat([states[:, -self.config.n_future_seen :], future], 1)  # [batch, seen + horizon, width]
        for i in range(self.config.n_future_stages):
            z = self.future_block(z, 2**i)
        return cast("Tensor", self.out_proj(x + self.future_out(z[:, -horizon:])))

    def _continued(self, values: Tensor, period: Tensor) -> Tensor:
        """Return each future step's mean over past steps of the same phase, [batch, horizon]."""
        n, n_phases = self.config.window, self.config.n_phases
        missing = n - self.config.context_length
        period = period.clamp(min=1)
        is_seen = (torch.arange(n) >= missing).to(values.dtype)  # [window]
        phases = torch.arange(n_phases, dtype=torch.float32)
        past = _phase_of(torch.arange(n, dtype=torch.float32), period, n_phases)  # [batch, window]
        is_there = (past.unsqueeze(-1) == phases).to(values.dtype) * is_seen.unsqueeze(-1)  # [batch, window, phase]
        counts = is_there.sum(1)  # [batch, phase]
        totals = (is_there * values.unsqueeze(-1)).sum(1)
        overall = values.sum(1, keepdim=True) / self.config.context_length
        means = torch.where(counts > 0, totals / counts.clamp(min=1), overall)  # [batch, phase]
        ahead = torch.arange(n, n + self.config.prediction_length, dtype=torch.float32)
        future = _phase_of(ahead, period, n_phases)  # [batch, horizon]
        return ((future.unsqueeze(-1) == phases).to(values.dtype) * means.unsqueeze(1)).sum(-1)


def _waves(n_rows: int, n_columns: int, n: int) -> Tensor:
    """Return real and imaginary part of exp(-2 pi i r c / n), float32 [2, n_rows, n_columns]."""
    turn = torch.outer(torch.arange(n_rows), torch.arange(n_columns)) % n
    angle = turn.double() * (-2 * math.pi / n)
    return torch.stack([angle.cos(), angle.sin()]).float()


def _recency(steps: Tensor, n: int) -> Tensor:
    """Return how far each step is from the window's last, in five bounded ways, float32 [time, 5]."""
    delta = (steps.float() - float(n - 1)) / float(n)
    away = delta.abs()
    logarithm = delta.sign() * away.log1p() / math.log(2.0)
    return torch.stack([delta, logarithm, (-0.5 * away).exp(), (-2.0 * away).exp(), (-8.0 * away).exp()], -1)


def _phases(n: int, periods: Tensor) -> Tensor:
    """Return sine and cosine of every step's phase in each period, [batch, time, 2 n_periods]; zero for no period."""
    steps = torch.arange(n, dtype=torch.float32).reshape(1, n, 1)
    is_period = (periods > 0).to(torch.float32).unsqueeze(1)  # [batch, 1, n_periods]
    angle = 2.0 * math.pi * steps / periods.clamp(min=1).unsqueeze(1)  # [batch, time, n_periods]
    pair = torch.stack([angle.sin() * is_period, angle.cos() * is_period], -1)  # [batch, time, n_periods, 2]
    return pair.flatten(2)


def _phase_of(steps: Tensor, period: Tensor, n_phases: int) -> Tensor:
    """Return which of ``n_phases`` equal parts of the period each step is in, float32 [batch, time]."""
    into = steps - period * torch.floor(steps / period)  # [batch, time]
    return torch.floor(into / period * n_phases).clamp(max=n_phases - 1)


AutoConfig.register("fracast", FracastConfig)
