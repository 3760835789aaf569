"""A task's choice of strategy: wrong options and bundles that do not fit are one clear line."""

from __future__ import annotations

from typing import Any

import pytest

from aggregator.core.strategies import STRATEGIES
from aggregator.core.strategy_choice import identity, options_of, refuse_unfit
from protocol.continual import ContinualTerms
from protocol.errors import ConfigError
from protocol.fields import FieldError
from protocol.layout import Layout, TensorSlot
from protocol.plan import Optimizer, Plan
from tests.aggregator.core.strategies.lora_fleet import LAYOUT

HEAD_ONLY = Layout(tensors=(TensorSlot(name="w", shape=(3,), offset=0, role="head"),))
SGD = Plan(optimizer=Optimizer(name="sgd", beta1=0.0))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("magic", {}, "strategy: expected one of fedavg, "),
        ("fedavg", {"mu": 1.0}, r"strategy_options\.mu: unknown key"),
        ("fedprox", {"mu": -1.0}, r"strategy_options\.mu: expected 0 to 1e\+06, got -1\.0"),
        ("fedprox", {"mu": "much"}, r"strategy_options\.mu: expected float, got str"),
        ("scaffold", {}, r"strategy_options\.n_devices: missing"),
        ("norm-bounding", {}, r"strategy_options\.max_norm: missing"),
        ("hetlora", {"ranks": {"pi": 0}}, r"strategy_options\.ranks\.pi: expected 1 to"),
        ("trimmed-mean", {"trimmed_fraction": 0.5}, r"strategy_options\.trimmed_fraction"),
    ],
)
def test_a_wrong_option_is_named(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldError, match=message):
        options_of(name, given)


def test_options_may_be_written_as_toml_writes_numbers() -> None:
    assert options_of("fedprox", {"mu": 1}).mu == 1.0


def test_the_store_knows_a_strategy_by_its_name_and_other_options_by_a_digest() -> None:
    assert identity("fedprox", options_of("fedprox", {})) == "fedprox"
    some, other = (identity("fedprox", options_of("fedprox", {"mu": mu})) for mu in (0.1, 0.2))
    assert some.startswith("fedprox#")
    assert some != other
    assert len(identity("scaffold", options_of("scaffold", {"n_devices": 3}))) <= 64


@pytest.mark.parametrize(
    ("name", "given", "layout", "plan", "message"),
    [
        ("flora", {}, LAYOUT, Plan(), "strategy flora: it changes base weights, and this bundle's cannot be"),
        ("fedex-lora", {}, LAYOUT, Plan(), "strategy fedex-lora: it changes base weights"),
        ("rolora", {}, HEAD_ONLY, Plan(), "works on LoRA pairs, and the bundle's adapter has none"),
        ("scaffold", {"n_devices": 3}, LAYOUT, Plan(), r'needs plan\.optimizer\.name = "sgd"'),
        (
            "scaffold",
            {"n_devices": 3},
            LAYOUT,
            Plan(optimizer=Optimizer(name="sgd", beta1=0.0), clip_update_norm=1.0),
            "leave out clip_update_norm",
        ),
    ],
)
def test_a_strategy_that_cannot_run_says_why(
    name: str, given: dict[str, Any], layout: Layout, plan: Plan, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        refuse_unfit(name, options_of(name, given), layout=layout, plan=plan, has_open_base=False)


@pytest.mark.parametrize("name", ["flora", "fedex-lora"])
def test_a_changing_base_goes_with_replay_and_not_with_looking_back(name: str) -> None:
    replay, ewc = ContinualTerms(replay_fraction=0.5), ContinualTerms(ewc_strength=1.0)
    refuse_unfit(name, options_of(name, {}), layout=LAYOUT, plan=Plan(continual=replay), has_open_base=True)
    with pytest.raises(ConfigError, match="on other base weights"):
        refuse_unfit(name, options_of(name, {}), layout=LAYOUT, plan=Plan(continual=ewc), has_open_base=True)


@pytest.mark.parametrize("name", ["flora", "fedex-lora"])
def test_a_base_change_beyond_a_message_is_refused_before_anybody_hears_of_it(name: str) -> None:
    wide = Layout(
        tensors=(
            TensorSlot(name="q.lora_A", shape=(1, 4096), offset=0, role="lora_A"),
            TensorSlot(name="q.lora_B", shape=(4097, 1), offset=4096, role="lora_B"),
        )
    )
    with pytest.raises(ConfigError, match="a message at most 67108864: adapt fewer layers"):
        refuse_unfit(name, options_of(name, {}), layout=wide, plan=Plan(), has_open_base=True)


def test_all_others_run_on_a_lora_bundle() -> None:
    given: dict[str, dict[str, Any]] = {"scaffold": {"n_devices": 3}, "norm-bounding": {"max_norm": 1.0}}
    for name, strategy in STRATEGIES.items():
        plan = SGD if strategy.needs.plain_sgd else Plan()
        options = options_of(name, given.get(name, {}))
        refuse_unfit(name, options, layout=LAYOUT, plan=plan, has_open_base=True)
