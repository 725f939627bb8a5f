"""API keys, made without an API."""

from __future__ import annotations

from issuer.access.api_keys import create_key
from issuer.settings import Settings
from issuer.storage.postgres import close_pool, connect_pool


async def make_key(settings: Settings, *scopes: str) -> str:
    """Return the secret of a new key."""
    postgres = await connect_pool(settings, size=1)
    try:
        return (await create_key(postgres, name="fuzz", scopes=scopes, actor="test"))[1]
    finally:
        await close_pool(postgres)
