"""A task's choice of strategy: its options checked, whether it can run here, and what it is called in the store.

Must live here: every reason for which a strategy is refused at the start of a task. Does not know about: files,
devices.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from aggregator.core.folding import TermsContext
from aggregator.core.strategies import STRATEGIES
from aggregator.core.update_shape import shape_of
from protocol.bounds import ENVELOPE_OVERHEAD_BYTES, MAX_MESSAGE_BYTES
from protocol.errors import ConfigError
from protocol.fields import FieldError, plain, structure
from protocol.lora_pairs import lora_pairs, n_dense_values
from protocol.open_base import OPEN_BASE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from protocol.layout import Layout
    from protocol.plan import Plan

__all__ = ["identity", "options_of", "refuse_unfit"]

_DIGEST_CHARACTERS = 8
_VALUE_BYTES = 4  # a version is kept, and measured, in float32


def options_of(strategy: str, given: Mapping[str, Any]) -> Any:  # noqa: ANN401 - each strategy has its own class
    """Return the options of ``strategy``, checked.

    Raises:
        FieldError: no such strategy, or an option that it does not have or that is out of bounds (the user's fault).
    """
    if strategy not in STRATEGIES:
        raise FieldError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {strategy[:64]!r}")
    return structure(STRATEGIES[strategy].options, given, "strategy_options", lenient_floats=True)


def identity(strategy: str, options: Any) -> str:  # noqa: ANN401 - each strategy has its own class
    """Return what the store calls the choice: the name, and a digest where options differ from the defaults.

    A history can only be folded again under the options that made it, so they are fixed with the name.
    """
    try:
        is_default = options == STRATEGIES[strategy].options()
    except TypeError:  # an option without a default
        is_default = False
    if is_default:
        return strategy
    text = json.dumps(plain(options), sort_keys=True)
    return f"{strategy}#{hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]}"


def refuse_unfit(strategy: str, options: Any, *, layout: Layout, plan: Plan, has_open_base: bool) -> None:  # noqa: ANN401
    """Return if the strategy can run with a bundle of this layout, whose base weights may change or not, and this plan.

    Raises:
        ConfigError: it cannot; the line says why (the user's fault).
    """
    needs = STRATEGIES[strategy].needs
    if needs.layout == "lora" and not lora_pairs(layout):
        raise ConfigError(f"strategy {strategy}: it works on LoRA pairs, and the bundle's adapter has none")
    if needs.open_base:
        _refuse_closed_base(strategy, layout, plan, has_open_base=has_open_base)
    if needs.plain_sgd:
        _refuse_other_than_sgd(strategy, plan)
    for version in (0, 1):  # terms may alternate
        terms = STRATEGIES[strategy].terms(options, TermsContext(version=version, device="device"))
        if plan.dp is not None and terms is not None:
            raise ConfigError(f"strategy {strategy}: what it asks of devices does not go with plan.dp yet")
        if shape_of(layout, terms).n_values == 0:
            raise ConfigError(f"strategy {strategy}: a device would have nothing to send of this bundle's adapter")


def _refuse_closed_base(strategy: str, layout: Layout, plan: Plan, *, has_open_base: bool) -> None:
    if not has_open_base:
        raise ConfigError(
            f"strategy {strategy}: it changes base weights, and this bundle's cannot be (no {OPEN_BASE}): export it "
            "again, without --quantize or ia3"
        )
    if plan.continual is not None and plan.continual.needs_memory:
        raise ConfigError(f"strategy {strategy}: ewc and lwf look back at parameters on other base weights; use replay")
    n_bytes = _VALUE_BYTES * (layout.n_params + n_dense_values(layout)) + ENVELOPE_OVERHEAD_BYTES
    if n_bytes > MAX_MESSAGE_BYTES:
        raise ConfigError(
            f"strategy {strategy}: adapter and base change have {n_bytes} bytes, a message at most "
            f"{MAX_MESSAGE_BYTES}: adapt fewer layers (--targets)"
        )


def _refuse_other_than_sgd(strategy: str, plan: Plan) -> None:
    optimizer = plan.optimizer
    if optimizer.name != "sgd" or optimizer.beta1 != 0:
        raise ConfigError(f'strategy {strategy}: needs plan.optimizer.name = "sgd" and plan.optimizer.beta1 = 0')
    if plan.clip_update_norm is not None:
        raise ConfigError(f"strategy {strategy}: control variates need unclipped updates; leave out clip_update_norm")
