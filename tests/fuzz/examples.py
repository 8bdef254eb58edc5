"""How many examples a fuzzing test draws: a fixed few in `make test`, as many as fit in the time in `make fuzz`."""

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

# How many times the usual number, from the Makefile.
TIMES = int(os.environ.get("FUZZ_TIMES", "1"))


def few(number: int) -> Callable[[Any], Any]:
    """Draw so many examples, the same ones every time unless `make fuzz` asks for more."""
    return settings(
        max_examples=number * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=30_000,  # ms: nothing may hang
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
