"""Operators of the console: over HTTP, and at the sign-in with a password."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from issuer.access.audit import list_entries
from issuer.operators import passwords, store
from issuer.operators.operator import OperatorNotFoundError
from issuer.operators.store import MAX_TRIES
from tests.support.api import Api, problem
from tests.support.console import console_screen
from tests.support.operators import CHOSEN, OPERATORS, choose, created, enter

pytestmark = pytest.mark.shared_app


async def test_an_operator_is_created_reset_and_disabled_over_http(api: Api) -> None:
    name = f"Grace {uuid4().hex[:8]}"
    headers = {**api.admin, "Idempotency-Key": name}
    response = await api.client.post(OPERATORS, json={"name": name, "role": "viewer"}, headers=headers)
    assert (response.status_code, response.headers["cache-control"]) == (201, "no-store")
    operator = response.json()
    secret = operator.pop("secret")
    again = await api.client.post(OPERATORS, json={"name": name, "role": "viewer"}, headers=headers)
    assert again.json() == {**operator, "secret": None}
    taken = await api.client.post(OPERATORS, json={"name": name.upper(), "role": "viewer"}, headers=api.admin)
    assert problem(taken, 409)["code"] == "operator_exists"
    for body in ({"name": "x", "role": "root"}, {"name": "x"}, {"name": "a\u202eb", "role": "viewer"}):
        refused = await api.client.post(OPERATORS, json=body, headers=api.admin)
        assert problem(refused, 400)["code"] == "invalid_operator"
    one = f"{OPERATORS}/{operator['id']}"
    reset = (await api.client.post(f"{one}/reset", headers=api.admin)).json()
    assert reset["secret"] not in (secret, None)
    gone = (await api.client.delete(one, headers=api.admin)).json()
    assert gone["disabled_at"] is not None
    assert problem(await api.client.delete(one, headers=api.admin), 404)["code"] == "operator_not_found"
    listed = (await api.get(OPERATORS)).json()["items"]
    assert gone in listed
    entries = (await list_entries(api.owner)).items
    acts = [entry.action for entry in entries if entry.subject == f"operator:{operator['id']}"]
    assert acts == ["operator.disable", "operator.reset", "operator.create"]
    stored = await api.owner.fetch(
        "SELECT o::text AS row FROM operators o UNION ALL SELECT k::text FROM kept_answers k"
    )
    assert stored
    assert not any(secret in row["row"] or reset["secret"] in row["row"] for row in stored)


async def test_the_first_password_opens_nothing_but_the_choice_of_another(api: Api) -> None:
    operator = await created(api)
    async with console_screen(api) as screen:
        await enter(screen, operator["name"].upper(), operator["secret"])
        assert (screen.status, screen.path) == (200, "/account")
        await screen.open()
        assert screen.path == "/account"
        for new, again, said in (
            ("short", "short", "Use 12 to 128 characters"),
            ("aaaaaaaabbbb", "aaaaaaaabbbb", "again and again"),
            (operator["name"] + "12345", operator["name"] + "12345", "your name"),
            (operator["secret"], operator["secret"], "another password than before"),
            (CHOSEN, CHOSEN + "!", "not the same"),
        ):
            await screen.send("/account", new=new, again=again)
            assert (screen.status, said in screen.text) == (422, True), said
        before = screen.http.cookies["console"]
        async with console_screen(api) as other:
            await enter(other, operator["name"], operator["secret"])
            await screen.send("/account", new=CHOSEN, again=CHOSEN)
            assert "Your password is changed" in screen.text
            assert screen.http.cookies["console"] != before
            await other.open("/account")
            assert other.path == "/sign-in"
        # Later it takes the current one.
        await screen.send("/account", current="wrong", new="five grey cats at sea", again="five grey cats at sea")
        assert (screen.status, "not your password" in screen.text) == (422, True)


async def test_wrong_names_and_passwords_are_answered_alike_and_counted(api: Api) -> None:
    operator = await created(api)
    texts = set()
    async with console_screen(api) as own, console_screen(api) as screen:
        await choose(own, operator)
        for name in (operator["name"], f"unknown {uuid4()}", "a\0b", ""):
            await enter(screen, name, "wrong")
            assert screen.status == 403
            texts.add(screen.text)
        await api.owner.execute("UPDATE operators SET tries = $1", MAX_TRIES - 1)
        # The last try locks; then the right password is refused, too, in the same words.
        for password in ("wrong", CHOSEN):
            await enter(screen, operator["name"], password)
            assert screen.status == 403
            texts.add(screen.text)
        assert len(texts) == 1
        # A browser of this operator is not locked out by others, but its cookie is of no use with another's name.
        await own.send("/sign-out")
        other = await created(api)
        await api.owner.execute("UPDATE operators SET locked_until = now() + interval '1 hour'")
        await enter(own, other["name"], other["secret"])
        assert own.status == 403
        (known,) = [cookie for cookie in own.http.cookies.jar if cookie.name == "console-known"]
        mine, known.value = known.value, str(known.value).replace(operator["id"], other["id"])
        await enter(own, other["name"], other["secret"])
        assert own.status == 403
        await enter(screen, operator["name"], CHOSEN)
        assert screen.status == 403
        known.value = mine
        await enter(own, operator["name"], "wrong")
        assert own.status == 403
        await enter(own, operator["name"], CHOSEN)
        assert own.status == 200
        await api.owner.execute("UPDATE operators SET locked_until = now()")
        await enter(screen, operator["name"], CHOSEN)
        assert screen.status == 200
        assert await api.owner.fetchval("SELECT tries FROM operators WHERE name = $1", operator["name"]) == 0


async def test_a_reset_while_an_old_password_is_compared_leaves_it_of_no_use(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = await created(api)
    async with console_screen(api) as screen:
        await choose(screen, operator)
    compare, reset = passwords.is_password, [""]

    async def compare_and_reset(password: str, stored: str | None) -> bool:
        is_right = await compare(password, stored)
        response = await api.client.post(f"{OPERATORS}/{operator['id']}/reset", headers=api.admin)
        reset[0] = response.json()["secret"]
        return is_right

    async with console_screen(api) as screen:
        with monkeypatch.context() as patch:
            patch.setattr(store, "is_password", compare_and_reset)
            patch.setattr(store, "is_outdated", lambda stored: True)
            await enter(screen, operator["name"], CHOSEN)
        assert screen.status == 403
        await enter(screen, operator["name"], reset[0])
        assert (screen.status, screen.path) == (200, "/account")
        # Nor does a choice that was under way replace what the reset has set.
        before = await store.find_operator(api.owner, UUID(operator["id"]))
        again = (await api.client.post(f"{OPERATORS}/{operator['id']}/reset", headers=api.admin)).json()["secret"]
        async with api.owner.acquire() as connection, connection.transaction():
            with pytest.raises(OperatorNotFoundError):
                await store.choose_password(connection, before, "five grey cats at sea")
        await enter(screen, operator["name"], again)
        assert (screen.status, screen.path) == (200, "/account")


async def test_a_reset_and_an_end_sign_every_browser_out(api: Api) -> None:
    operator = await created(api)
    one = f"{OPERATORS}/{operator['id']}"
    async with console_screen(api) as screen:
        await choose(screen, operator)
        reset = (await api.client.post(f"{one}/reset", headers=api.admin)).json()
        await screen.open("/account")
        assert screen.path == "/sign-in"
        await enter(screen, operator["name"], CHOSEN)
        assert screen.status == 403
        # A first password that was not used in time is as wrong as any other.
        await api.owner.execute("UPDATE operators SET initial_until = now() WHERE name = $1", operator["name"])
        await enter(screen, operator["name"], reset["secret"])
        assert screen.status == 403
        reset = (await api.client.post(f"{one}/reset", headers=api.admin)).json()
        await choose(screen, {**operator, **reset}, CHOSEN + " again")
        await screen.open("/account")
        assert screen.path == "/account"
        await api.client.delete(one, headers=api.admin)
        await screen.open("/account")
        assert screen.path == "/sign-in"
