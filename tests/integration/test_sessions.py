"""Sessions and login tokens in Postgres: what a token opens, for how long, how often, and for which browser."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

from issuer.sessions import login_tokens, session_store
from issuer.sessions.login_tokens import (
    MAX_TRIES,
    EmailAddress,
    TokenPurpose,
    UsedToken,
    create_login_token,
    pending_email,
    try_code,
    use_token,
)
from issuer.sessions.session_store import (
    LIMITS,
    MAX_OF_OWNER,
    LoginSession,
    SessionKind,
    begin_session,
    end_session,
    end_sessions,
    find_session,
)
from issuer.sessions.tokens import form_token, is_form_token, new_token, token_hash
from issuer.storage.postgres import Pool
from issuer.storage.stores import Stores
from issuer.storage.task_rows import TaskRows
from sync_worker.maintenance.tasks import MaintenanceTasks
from sync_worker.worker import WorkerProgress

MEMBER, TILL, LOGIN = SessionKind.MEMBER, SessionKind.TILL, TokenPurpose.LOGIN
ANN = EmailAddress("Ann@Shop.example", "ann@shop.example")


async def begin(postgres: Pool, owner: str = "ann", program_id: UUID | None = None) -> str:
    async with postgres.acquire() as connection, connection.transaction():
        return await begin_session(connection, MEMBER, owner, program_id=program_id, detail={"n": 1})


async def create(
    postgres: Pool, program_id: UUID, browser: str | None, email: EmailAddress = ANN
) -> login_tokens.LoginToken:
    async with postgres.acquire() as connection, connection.transaction():
        return await create_login_token(connection, LOGIN, program_id, email, browser=browser)


async def use(postgres: Pool, program_id: UUID, code: str, browser: str) -> UsedToken | None:
    hashed = await try_code(postgres, LOGIN, program_id, code, browser=browser)
    return None if hashed is None else await use_hash(postgres, program_id, hashed)


async def use_hash(postgres: Pool, program_id: UUID, hashed: bytes) -> UsedToken | None:
    async with postgres.acquire() as connection, connection.transaction():
        return await use_token(connection, LOGIN, program_id, hashed)


def wrong(code: str) -> str:
    return f"{(int(code) + 1) % 1_000_000:06}"


async def test_a_session_is_found_by_its_token_for_its_pages_alone(stores: Stores) -> None:
    postgres, program = stores.postgres, uuid4()
    token = await begin(postgres, program_id=program)
    session = await find_session(postgres, token, MEMBER, program)
    assert isinstance(session, LoginSession)
    assert (session.owner, session.program_id, session.detail) == ("ann", program, {"n": 1})
    others = [(token, TILL, program), (token, MEMBER, uuid4()), (token, MEMBER, None), (new_token(), MEMBER, program)]
    others += [("", MEMBER, program), (token[:-1], MEMBER, program), (token + "\0", MEMBER, program)]
    assert [await find_session(postgres, *other) for other in others] == [None] * len(others)
    # Who reads the table has no token.
    row = await postgres.fetchrow("SELECT * FROM sessions")
    assert row is not None
    assert token not in str(dict(row))
    assert row["hash"] == token_hash(token)
    await end_session(postgres, token)
    assert await find_session(postgres, token, MEMBER, program) is None


async def test_a_session_ends_by_idleness_and_in_any_case(stores: Stores) -> None:
    postgres, idle = stores.postgres, LIMITS[MEMBER].idle
    used, unused = await begin(postgres), await begin(postgres)
    move = "UPDATE sessions SET began_at = began_at - $1::interval, expires_at = expires_at - $1::interval,"
    move += " ends_at = ends_at - $1::interval"
    await postgres.execute(move, idle * 0.6)
    assert await find_session(postgres, used, MEMBER, None) is not None
    await postgres.execute(move, idle * 0.6)
    assert await find_session(postgres, unused, MEMBER, None) is None
    assert await find_session(postgres, used, MEMBER, None) is not None
    # Used all the time, it lasts to its end and no longer.
    near = "UPDATE sessions SET expires_at = now() + interval '1 hour', ends_at = now() + interval '2 hours'"
    await postgres.execute(f"{near} WHERE hash = $1", token_hash(used))
    assert await find_session(postgres, used, MEMBER, None) is not None
    assert await postgres.fetchval("SELECT expires_at = ends_at FROM sessions WHERE hash = $1", token_hash(used))
    await postgres.execute("UPDATE sessions SET expires_at = now(), ends_at = now()")
    assert await find_session(postgres, used, MEMBER, None) is None


async def test_an_owner_has_few_sessions_and_can_end_the_others(stores: Stores) -> None:
    postgres = stores.postgres
    tokens = [await begin(postgres) for _ in range(MAX_OF_OWNER + 2)]
    other = await begin(postgres, "bob")
    found = [await find_session(postgres, token, MEMBER, None) for token in tokens]
    assert [session is not None for session in found] == [False, False] + [True] * MAX_OF_OWNER
    assert await end_sessions(postgres, MEMBER, ["ann"], but=found[-1]) == MAX_OF_OWNER - 1
    assert await find_session(postgres, tokens[-1], MEMBER, None) is not None
    assert await find_session(postgres, other, MEMBER, None) is not None


async def test_a_code_is_valid_once_in_its_browser_and_for_its_program(stores: Stores) -> None:
    postgres, program, browser = stores.postgres, uuid4(), new_token()
    token = await create(postgres, program, browser)
    assert await pending_email(postgres, LOGIN, program, browser=browser) == ANN.given
    assert await use(postgres, program, token.code, new_token()) is None
    assert await use(postgres, uuid4(), token.code, browser) is None
    assert await use(postgres, program, wrong(token.code), browser) is None
    # Spaces are how people read a code aloud. Of any number of uses at the same time one succeeds.
    spaced = f" {token.code[:3]} {token.code[3:]} "
    results = await asyncio.gather(*(use(postgres, program, spaced, browser) for _ in range(4)))
    assert [used for used in results if used] == [UsedToken(ANN, None)]
    assert await use(postgres, program, token.code, browser) is None
    # A further request replaces the one before it.
    first, second = await create(postgres, program, browser), await create(postgres, program, browser)
    linked = token_hash(first.link), token_hash(second.link)
    assert linked[0] is not None
    assert linked[1] is not None
    assert await use_hash(postgres, program, linked[0]) is None
    assert await use_hash(postgres, uuid4(), linked[1]) is None
    assert await use_hash(postgres, program, linked[1]) == UsedToken(ANN, None)


async def test_a_code_has_five_tries_and_the_link_is_still_valid_after_them(stores: Stores) -> None:
    postgres, program, browser = stores.postgres, uuid4(), new_token()
    token = await create(postgres, program, browser)
    bad = wrong(token.code)
    results = await asyncio.gather(*(use(postgres, program, bad, browser) for _ in range(MAX_TRIES + 3)))
    assert results == [None] * (MAX_TRIES + 3)
    assert await postgres.fetchval("SELECT tries FROM login_tokens") == MAX_TRIES
    assert await use(postgres, program, token.code, browser) is None
    hashed = token_hash(token.link)
    assert hashed is not None
    assert await use_hash(postgres, program, hashed) == UsedToken(ANN, None)


async def test_a_code_that_staff_read_out_is_valid_in_a_browser_that_asked_for_its_address(stores: Stores) -> None:
    postgres, program, browser, other = stores.postgres, uuid4(), new_token(), new_token()
    staff = await create(postgres, program, None)
    assert await use(postgres, program, staff.code, browser) is None
    await create(postgres, program, browser)
    await create(postgres, program, other, EmailAddress("bob@shop.example", "bob@shop.example"))
    assert await use(postgres, program, staff.code, other) is None
    assert await use(postgres, program, staff.code, browser) == UsedToken(ANN, None)


async def test_what_has_expired_is_of_no_use_and_the_worker_removes_it(stores: Stores) -> None:
    postgres, program, browser = stores.postgres, uuid4(), new_token()
    old = await create(postgres, program, browser)
    await postgres.execute("UPDATE login_tokens SET expires_at = now()")
    await begin(postgres)
    await postgres.execute("UPDATE sessions SET expires_at = now()")
    hashed = token_hash(old.link)
    assert hashed is not None
    assert await pending_email(postgres, LOGIN, program, browser=browser) is None
    assert await use(postgres, program, old.code, browser) is None
    assert await use_hash(postgres, program, hashed) is None
    kept = await begin(postgres, "bob")
    await create(postgres, program, new_token())
    await MaintenanceTasks(stores, TaskRows(stores), "worker", WorkerProgress()).remove_expired()
    assert [row["owner"] for row in await postgres.fetch("SELECT owner FROM sessions")] == ["bob"]
    assert await postgres.fetchval("SELECT count(*) FROM login_tokens") == 1
    assert await session_store.find_session(postgres, kept, MEMBER, None) is not None


def test_a_form_token_belongs_to_one_browser() -> None:
    token, other = new_token(), new_token()
    assert is_form_token(form_token(token), token)
    assert [is_form_token(given, token) for given in ("", form_token(other), token, "ü")] == [False] * 4
