"""The environment of a test's processes: what the test says, and no ISSUER_ variable of the shell that runs it."""

from __future__ import annotations

import os

from issuer.settings import Settings


def clean_environment(**more: str) -> dict[str, str]:
    """This environment without any ISSUER_ variable."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ISSUER_")} | more


def environment_of(settings: Settings, **more: str) -> dict[str, str]:
    """Of a process that works on the test's databases."""
    return clean_environment(
        ISSUER_REDIS_URL=settings.redis_url.get_secret_value(),
        ISSUER_DATABASE_URL=settings.database_url.get_secret_value(),
        ISSUER_PARTITIONS=str(settings.partitions),
        **more,
    )
