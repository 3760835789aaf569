"""What every test shares: reproducible property tests, and the hypothesis profile for a long search."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Reproducible by default, so that a red test is red for everyone. EDGEFOLD_HYPOTHESIS=search looks further.
settings.register_profile(
    "default", max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("EDGEFOLD_HYPOTHESIS", "default"))
