"""The command lines of the predecessors' READMEs, pasted: only host, token and ids that were answered differ."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from issuer.settings import Auth, Settings
from tests.support.api_process import ApiProcess
from tests.support.installation import Installation, issuer_command
from tests.support.programs import require

BATCH: Final = "11111111-1111-1111-1111-111111111111"
CLIENT: Final = "217be7c8-679c-4e08-bffc-db3451bdcdbf"

REDEEM: Final = """curl --request POST \\
  --url http://your-ango-server/api/v1/code/redeem \\
  --header 'content-type: application/json' \\
  --data '{
  "batchid": "11111111-1111-1111-1111-111111111111",
  "clientid": "217be7c8-679c-4e08-bffc-db3451bdcdbf",
  "customerid": "50b0b41b-c665-4409-a2bb-a4fc18828dc2"
}'"""
LIST: Final = """curl --request GET \\
  --url http://localhost:3000/api/v1/batches"""
UPLOAD: Final = """curl -X POST http://your-ango-server/api/v1/codes/upload \\
  -F "file=@/path/to/your/codes.csv" \\
  -F "batch_name=Summer Sale 2023" \\
  -F 'rules={"maxpercustomer":2,"timelimit":30}'"""

GENERATE: Final = """curl --location -g --request POST '{{ BASE_URL }}/coupon/' \\
    --header 'Authorization: <Token>' \\
    --form 'code_length="6"' \\
    --form 'expiry_date="15-Jan-2030"' \\
    --form 'availability_count="1024"' \\
    --form 'product_id="apple123"' \\
    --form 'promo_type="voucher"' \\
    --form 'discount_fixed="20"'"""
DETAILS: Final = """curl --location -g --request GET '{{ BASE_URL }}/coupon/?code=AYSB23X2' \\
    --header 'Authorization: <Token>'"""
UPDATE: Final = """curl --location -g --request PUT '{{ BASE_URL }}/coupon/AYSB23X2/' \\
    --header 'Authorization: <Token>' \\
    --form 'availability_count="0"'"""
VALIDATE: Final = """curl --location -g --request GET \\
    '{{ BASE_URL }}/coupon/consume/?code=AYSB23X2&product_id=apple123' --header 'Authorization: <Token>'"""
CONSUME: Final = """curl --location -g --request POST '{{ BASE_URL }}/coupon/consume/?code=AYSB23X2' \\
    --header 'Authorization: <Token>'"""

CREATE_CAMPAIGN: Final = """curl -v http://localhost:8080/coupon.CouponService/CreateCampaign \\
  -H 'Content-Type: application/json' \\
  -d "{\\"name\\":\\"SpringPromo\\",\\"total\\":10000,\\"startTime\\":\\"$(date -u +'%Y-%m-%dT%H:%M:%SZ')\\"}\""""
ISSUE: Final = """curl -v http://localhost:8080/coupon.CouponService/IssueCoupon \\
  -H 'Content-Type: application/json' \\
  -d '{"campaignId":"b2c7f597"}' # campaign id"""
GET_CAMPAIGN: Final = """curl -v http://localhost:8080/coupon.CouponService/GetCampaign \\
  -H 'Content-Type: application/json' \\
  -d '{"campaignId":"b2c7f597"}' # campaign id"""

HOSTS: Final = ("http://your-ango-server", "http://localhost:3000", "{{ BASE_URL }}", "http://localhost:8080")


@dataclass(frozen=True)
class PasteTarget:
    """A running installation. `key` None: it runs without keys."""

    url: str
    key: str | None

    def paste(self, command: str, *replaced: tuple[str, str]) -> Any:
        """Run a command line in a shell; return the JSON that it printed."""
        for old, new in [(host, self.url) for host in HOSTS] + list(replaced):
            command = command.replace(old, new)
        if self.key is not None and "<Token>" in command:
            command = command.replace("<Token>", self.key)
        elif self.key is not None:
            # The other predecessors know no keys.
            command = command.replace("curl ", f"curl -H 'Authorization: {self.key}' ", 1)
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def send(self, method: str, path: str, **body: Any) -> Any:
        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        response = httpx.request(method, self.url + path, headers=headers, timeout=60, **body)
        assert response.status_code in (200, 201), response.text
        return response.json()


@pytest.fixture(params=["keys", *(pytest.param(name, marks=pytest.mark.long) for name in ("no keys", "issuer up"))])
def target(request: pytest.FixtureRequest, tmp_path: Path, settings: Settings) -> Iterator[PasteTarget]:
    """An API process with keys and one without them; `issuer up` with the key that it prints."""
    require("curl")
    if request.param == "issuer up":
        with Installation(tmp_path) as installation:
            yield PasteTarget(installation.url, installation.api_key)
        return
    auth = Auth.ON if request.param == "keys" else Auth.OFF
    process = ApiProcess(settings.model_copy(update={"auth": auth}), tmp_path, ISSUER_DEFAULT_CLIENT=CLIENT)
    with process:
        process.wait_until_ready()
        yield PasteTarget(process.url, created_key(process.environment) if auth is Auth.ON else None)


def created_key(environment: dict[str, str]) -> str:
    """A key with both scopes, bound to no client, as that of `issuer up`."""
    command = issuer_command("keys", "create", "--name", "shop", "--scope", "redeem", "--scope", "admin", "--json")
    created = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    return str(json.loads(created.stdout)["secret"])


@pytest.mark.long
def test_the_command_lines_of_their_readmes_work(target: PasteTarget, tmp_path: Path) -> None:
    codes(target, tmp_path)
    coupons(target)
    campaigns(target)


def codes(target: PasteTarget, tmp_path: Path) -> None:
    """What Ango's seed creates, with its own ids, then its three commands."""
    target.send("POST", "/api/v1/clients", json={"id": CLIENT, "name": "Band 42"})
    batch = {"id": BATCH, "name": "Winter Batch", "rules": {"maxpercustomer": 1, "timelimit": 30}}
    target.send("POST", "/api/v1/batches", json=batch)
    seed = ("codes.csv", f"client_id,code\n{CLIENT},WINTER-1\n".encode(), "text/csv")
    target.send("POST", "/api/v1/codes/upload", files={"file": seed}, data={"batch_id": BATCH})

    assert target.paste(REDEEM) == {"code": "WINTER-1"}
    assert target.paste(REDEEM)["error"] == "rule conditions not met"
    file = tmp_path / "codes.csv"
    file.write_text(f"client_id,code\n{CLIENT},SUMMER-1\n{CLIENT},SUMMER-2\n")
    uploaded = target.paste(UPLOAD, ("/path/to/your/codes.csv", str(file)))
    assert (uploaded["message"], uploaded["loaded"]) == ("Codes uploaded successfully", 2)
    listed = target.paste(LIST)
    assert {
        "id": BATCH,
        "name": "Winter Batch",
        "rules": {"maxpercustomer": 1, "timelimit": 30},
        "expired": False,
    } in listed
    (summer,) = (one for one in listed if one["name"] == "Summer Sale 2023")
    assert summer["rules"] == {"maxpercustomer": 2, "timelimit": 30}
    assert target.paste(REDEEM, (BATCH, summer["id"])) == {"code": "SUMMER-1"}


def coupons(target: PasteTarget) -> None:
    """The coupon manager's five commands. Its README uses a code that it does not create: AYSB23X2."""
    made = target.paste(GENERATE)
    assert (len(made["code"]), made["availability_count"], made["discount_fixed"]) == (6, 1024, "20")
    assert made["expiry_date"] == "2030-01-16T00:00:00.000Z"
    target.paste(GENERATE, ("code_length", "code"), ('"6"', '"AYSB23X2"'))
    shown = target.paste(DETAILS)
    assert (shown["product_id"], shown["promo_type"], shown["remaining"]) == ("apple123", "voucher", 1024)
    assert target.paste(VALIDATE)["valid"] is True
    assert target.paste(CONSUME)["consumed"] is True
    stopped = target.paste(UPDATE)
    assert [stopped[name] for name in ("availability_count", "used", "remaining", "valid")] == [0, 1, 0, False]
    assert target.paste(VALIDATE)["valid"] is False
    assert target.paste(CONSUME)["error"] == "coupon used up"


def campaigns(target: PasteTarget) -> None:
    """The campaign service's three commands; the ids in its README are those of earlier answers."""
    campaign = ("b2c7f597", target.paste(CREATE_CAMPAIGN)["campaignId"])
    issued = target.paste(ISSUE, campaign)
    assert issued == {"code": issued["code"], "error": ""}
    shown = target.paste(GET_CAMPAIGN, campaign)
    assert (shown["name"], shown["total"], shown["issuedCodes"]) == ("SpringPromo", 10_000, [issued["code"]])
