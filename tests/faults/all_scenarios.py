"""All scenarios. Importing this module registers them in `scenario.SCENARIOS`."""

from __future__ import annotations

from typing import Final

from tests.faults import coupon_faults, data_faults, network_faults, process_faults, recovery_faults, redis_faults

LOADED: Final = (coupon_faults, redis_faults, data_faults, process_faults, network_faults, recovery_faults)
