"""The OpenAPI document against the real server: schemathesis makes requests from it and judges the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from aggregator.web.limits import FailureLimit
from aggregator.web.openapi import openapi_document

if TYPE_CHECKING:
    from tests.aggregator.web.conftest import Site

pytestmark = pytest.mark.timeout(300)


def test_every_operation_keeps_what_the_document_says(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        FailureLimit, "note", lambda *_: 0.0
    )  # wrong tokens are part of the exercise; 429 has its own test
    schema = schemathesis.openapi.from_url(f"{site.url}api/v1/openapi.json")
    headers = {"Authorization": f"Bearer {site.tokens['admin']}"}
    n_operations = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        n_operations += 1

        @given(case=operation.as_strategy())
        @settings(
            max_examples=8,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        def exercise(case: schemathesis.Case) -> None:
            # Rules between a task's settings (min_cohort <= cohort, ...) are in the code alone, not in its schema.
            excluded = [positive_data_acceptance] if case.operation.path.endswith("/tasks") else []
            case.call_and_validate(headers=headers, excluded_checks=excluded)

        exercise()
    assert n_operations == sum(len(methods) for methods in openapi_document()["paths"].values())
