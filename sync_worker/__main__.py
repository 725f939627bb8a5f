"""The command `python -m sync_worker`: settings from the environment (ISSUER_…), logs to stderr."""

from __future__ import annotations

import argparse
import sys

from issuer.logs import configure_logs, warn_of_unknown_variables
from issuer.settings import SettingsError, load_settings
from sync_worker.process import exit_status


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sync_worker",
        description="Record redemptions from Redis in the Postgres ledger until SIGTERM. There are no arguments: "
        "settings come from the environment (ISSUER_…), see docs/settings.md.",
    )
    parser.parse_args()
    try:
        settings = load_settings().as_worker()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    configure_logs(settings.log_level, name="sync_worker")
    warn_of_unknown_variables()
    return exit_status(settings)


if __name__ == "__main__":
    sys.exit(main())
