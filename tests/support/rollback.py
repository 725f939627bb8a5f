"""A database that is set back to an earlier state while its connections are kept, as after a failover to a standby."""

from __future__ import annotations

from typing import Final

from issuer.storage.postgres import Pool

_COPY: Final = """
CREATE SCHEMA IF NOT EXISTS earlier;
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('DROP TABLE IF EXISTS earlier.%s; CREATE TABLE earlier.%1$s AS TABLE public.%1$s', name);
    END LOOP;
END $$"""

_GO_BACK: Final = """
SET LOCAL session_replication_role = replica;
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'earlier' LOOP
        EXECUTE format('DELETE FROM public.%s', name);
        EXECUTE format('INSERT INTO public.%s OVERRIDING SYSTEM VALUE TABLE earlier.%1$s', name);
    END LOOP;
END $$"""


async def copy_tables(postgres: Pool) -> None:
    """Keep the present rows of all tables."""
    await postgres.execute(_COPY)


async def go_back(postgres: Pool) -> None:
    """Replace all rows by those that were kept."""
    async with postgres.acquire() as connection, connection.transaction():
        await connection.execute(_GO_BACK)
