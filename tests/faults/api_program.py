"""One API process that listens by itself, and whose port is free when it ends: `python -m tests.faults.api_program`."""

from __future__ import annotations

from issuer.processes.api import listen, run_api
from issuer.settings import load_settings

if __name__ == "__main__":
    settings = load_settings()
    run_api(settings, listen(settings.host, settings.port))
