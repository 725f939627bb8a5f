"""The environment of a test's processes: what the test says, and no ISSUER_ variable of the shell that runs it."""

from __future__ import annotations

import os
import re

from pydantic import SecretStr

from issuer.settings import Settings
from issuer.storage.grants import Process


def clean_environment(**more: str) -> dict[str, str]:
    """This environment without any ISSUER_ variable."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ISSUER_")} | more


def role_urls(database_url: str) -> dict[str, str]:
    """The three URLs of a database of the tests: each process gets its own role, commands get the owner."""
    return {
        "ISSUER_DATABASE_URL": url_as(database_url, Process.API),
        "ISSUER_WORKER_DATABASE_URL": url_as(database_url, Process.WORKER),
        "ISSUER_OWNER_DATABASE_URL": _with_user(database_url, "postgres"),
    }


def url_as(database_url: str, process: Process) -> str:
    """The URL with the role of that process instead of the owner, who is a superuser in tests."""
    return _with_user(database_url, f"issuer_{process}")


def _with_user(database_url: str, user: str) -> str:
    return re.sub(r"(?<=//)\w+@", f"{user}@", database_url)


def settings_as(settings: Settings, process: Process) -> Settings:
    """The settings that the process has: on the test's databases, with its own role."""
    url = url_as(settings.database_url.get_secret_value(), process)
    return settings.model_copy(update={"database_url": SecretStr(url)})


def environment_of(settings: Settings, **more: str) -> dict[str, str]:
    """Of a process that works on the test's databases."""
    own = {
        "ISSUER_REDIS_URL": settings.redis_url.get_secret_value(),
        **role_urls(settings.database_url.get_secret_value()),
        "ISSUER_PARTITIONS": str(settings.partitions),
        "ISSUER_DATA_DIR": str(settings.data_dir),
        "ISSUER_JOURNAL": settings.journal,
        "ISSUER_HEARTBEAT_MS": str(settings.heartbeat_ms),
    }
    return clean_environment(**own | more)
