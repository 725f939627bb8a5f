"""Schemathesis against a real process: the API conforms to its OpenAPI document for any request."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr

from issuer.access.secrets import new_key
from issuer.settings import Settings
from loadtest.processes import free_port
from tests.support.api_process import ApiProcess
from tests.support.keys import make_key
from tests.support.servers import wait_until

SEED = os.environ.get("SCHEMATHESIS_SEED", "20260601")
ENDLESS = "/api/v1/campaigns/{campaign_id}/events"
"""Its response has no end."""
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "40")
HERE = Path(__file__).parent
STUCK_S = 900
"""A run that takes longer hangs. It takes two minutes on an idle machine, several times that on a busy one."""


def make_batch(api: ApiProcess, key: str) -> dict[str, str]:
    """Create a batch with codes. Return the environment variables by which the hooks find it."""
    client = str(uuid4())
    rows = "".join(f"{client},C{number}\n" for number in range(10_000))
    response = httpx.post(
        f"{api.url}/api/v1/codes/upload",
        files={"file": ("codes.csv", f"client_id,code\n{rows}")},
        data={"batch_name": "Known"},
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    )
    assert response.status_code == 200, response.text
    return {"KNOWN_BATCH": response.json()["batch_id"], "KNOWN_NAME": "Known", "KNOWN_CLIENT": client}


def make_member(api: ApiProcess, key: str, client: str) -> dict[str, str]:
    """Create a program and a member with points. Return the environment variables by which the hooks find them."""
    programs, headers = f"{api.url}/api/v1/loyalty/programs", {"Authorization": f"Bearer {key}"}
    terms = {"earn": {"points": 1, "per": "1.00", "currency": "EUR"}}
    program = httpx.post(programs, json={"name": "Known", "client": client, "terms": terms}, headers=headers).json()[
        "id"
    ]
    member = httpx.post(f"{programs}/{program}/members", json={"ref": "known"}, headers=headers).json()["id"]
    body = {"points": 10**9, "reason": "known"}
    response = httpx.post(f"{programs}/{program}/members/{member}/adjust", json=body, headers=headers)
    assert response.status_code == 201, response.text
    return {"KNOWN_PROGRAM": program, "KNOWN_MEMBER": member}


def run_schemathesis(api: ApiProcess, key: str, directory: Path, *options: str, **environment: str) -> str:
    """Run schemathesis and return its output. Fails if schemathesis reports a failure."""
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"),
        "run", f"{api.url}/openapi.json", "--header", f"Authorization: Bearer {key}", "--seed", SEED,
        # A stream of events lasts until the campaign ends.
        "--exclude-path", ENDLESS,
        "--mode", "all", "--continue-on-failure", "--request-timeout", "20", *options,
    ]  # fmt: skip
    hooks = "tests.integration.schemathesis_hooks"
    done = subprocess.run(
        command, cwd=HERE.parents[1], capture_output=True, text=True, timeout=STUCK_S, check=False,
        env={**os.environ, "SCHEMATHESIS_HOOKS": hooks, "NO_COLOR": "1", "TMPDIR": str(directory), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2_000:]
    assert "Traceback" not in api.log.read_text()
    return done.stdout


@pytest.mark.timeout(STUCK_S + 60)
@pytest.mark.long
@pytest.mark.minutes
def test_the_api_conforms_to_its_openapi_document(settings: Settings, tmp_path: Path) -> None:
    with ApiProcess(settings, tmp_path, ISSUER_SECRET_KEY=new_key()) as api:
        api.wait_until_ready()
        key = asyncio.run(make_key(settings, "redeem", "admin"))
        known = make_batch(api, key)
        known |= make_member(api, key, known["KNOWN_CLIENT"])
        printed = run_schemathesis(api, key, tmp_path, "--checks", "all", "--max-examples", EXAMPLES, **known)
        selected, documented = map(int, re.findall(r"Selected: (\d+)/(\d+)", printed)[0])
        assert selected == documented - 1
        assert f"Tested: {selected}" in printed
        metrics = httpx.get(f"{api.url}/metrics", headers={"Authorization": f"Bearer {key}"}).text
        assert 'issuer_redemptions_total{outcome="granted"} 0.0' not in metrics


@pytest.mark.timeout(STUCK_S + 60)
@pytest.mark.long
@pytest.mark.minutes
def test_without_redis_requests_are_answered_with_503_and_never_crash(settings: Settings, tmp_path: Path) -> None:
    """Without Redis a 503 is allowed, but a 500 only where it is documented."""
    without_redis = settings.model_copy(update={"redis_url": SecretStr(f"redis://127.0.0.1:{free_port()}/0")})
    with ApiProcess(without_redis, tmp_path) as api:
        wait_until(lambda: answers(api), "the API answers")
        key = asyncio.run(make_key(settings, "redeem", "admin"))
        checks = "status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method"
        run_schemathesis(
            api, key, tmp_path, "--checks", checks, "--max-examples", "10", "--phases", "examples,coverage,fuzzing"
        )
        response = httpx.post(f"{api.url}/api/v1/code/redeem", headers={"Authorization": f"Bearer {key}"}, json={
            "batchid": str(uuid4()), "clientid": str(uuid4()), "customerid": str(uuid4()),
        })  # fmt: skip
        assert (response.status_code, response.json()["error"]) == (503, "not ready")
        metrics = httpx.get(f"{api.url}/metrics", headers={"Authorization": f"Bearer {key}"}).text
        for kind in ("redemptions", "consumptions"):
            assert f'issuer_{kind}_total{{outcome="crashed"}} 0.0' in metrics


def answers(api: ApiProcess) -> bool:
    try:
        return httpx.get(f"{api.url}/livez").status_code == 200
    except httpx.TransportError:
        return False
