"""All scenarios. Importing this module registers them in `scenario.SCENARIOS`."""

from __future__ import annotations

from typing import Final

from tests.faults import (
    clock_faults,
    coupon_faults,
    data_faults,
    gone_back_faults,
    lost_redis_faults,
    network_faults,
    process_faults,
    recovery_faults,
    redis_faults,
    store_limits_faults,
)

LOADED: Final = (
    clock_faults, coupon_faults, data_faults, gone_back_faults, lost_redis_faults, network_faults, process_faults,
    recovery_faults, redis_faults, store_limits_faults,
)  # fmt: skip
