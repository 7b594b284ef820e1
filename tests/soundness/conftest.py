"""How hypothesis searches: the same examples every time, unless HYPOTHESIS_PROFILE=search asks for others."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
settings.register_profile("suite", derandomize=True, database=None, **_COMMON)
settings.register_profile("search", **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))
