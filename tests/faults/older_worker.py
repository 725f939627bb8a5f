"""A worker of an earlier version, for which the events of this one are of a later version."""

from __future__ import annotations

import sys

from issuer.contract import events
from sync_worker.__main__ import main

if __name__ == "__main__":
    events.EVENT_FORMAT -= 1  # type: ignore[misc]
    sys.exit(main())
