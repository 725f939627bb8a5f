"""Entries of the audit log, and changes of it as one who owns the database can make them."""

from __future__ import annotations

from issuer.access.audit import record
from issuer.access.audit_chain import verify
from issuer.storage.postgres import Pool


async def act(postgres: Pool, subject: str = "batch:1", **detail: object) -> None:
    async with postgres.acquire() as connection, connection.transaction():
        await record(connection, actor="cli:ann", action="batch.change", subject=subject, detail=detail)


async def acts(postgres: Pool, count: int) -> None:
    for number in range(1, count + 1):
        await act(postgres, f"batch:{number}", number=number)


async def tamper(postgres: Pool, *statements: str) -> None:
    """Change the log as one who owns the database can: the triggers that refuse it are off."""
    async with postgres.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        for statement in statements:
            await connection.execute(statement)


def rehash() -> list[str]:
    """Statements that give all entries the hashes that belong to their content, as one who owns the schema can."""
    return [
        """DO $$ DECLARE row audit_log; previous bytea := decode(repeat('00', 32), 'hex'); content bytea; BEGIN
        FOR row IN SELECT * FROM audit_log ORDER BY id LOOP
            SELECT string_agg(convert_to(octet_length(f) || ':' || f || ',', 'UTF8'), ''::bytea ORDER BY n) INTO content
            FROM unnest(ARRAY[row.id::text, (extract(epoch FROM row.at) * 1000000)::bigint::text, row.actor, row.action,
                row.subject, row.detail::text]) WITH ORDINALITY AS x (f, n);
            previous := sha256(previous || content);
            UPDATE audit_log SET hash = previous WHERE id = row.id;
        END LOOP;
        UPDATE audit_ends SET hash = previous WHERE which = 'newest'; END $$"""
    ]


async def age(postgres: Pool, up_to: int) -> None:
    """Let the first entries be 100 days old, in a chain that is whole."""
    await tamper(postgres, f"UPDATE audit_log SET at = at - interval '100 days' WHERE id <= {up_to}", *rehash())
    assert (await verify(postgres)).fault is None
