"""Many at the door: a crowd asks for the few coupons of a campaign at the same time, and the tally is printed.

    python examples/flash_sale.py --url http://127.0.0.1:8000 --key isk_…

makes two campaigns, of 1 and of 50 coupons: 10,000 ask for the one, 5,000 for the fifty, nobody waits for another.
The key needs the scopes redeem and admin; with ISSUER_AUTH=off none is needed. The crowd speaks JSON, with --binary
binary protobuf, over HTTP/1.1, with the client that comes with the Connect project's Python library.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from connectrpc.codec import Codec
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from google.protobuf.timestamp_pb2 import Timestamp
from pyqwest import Client, HTTPTransport

from issuer.http.rpc.coupon.coupon_connect import CouponServiceClient
from issuer.http.rpc.coupon.coupon_pb2 import CreateCampaignRequest, GetCampaignRequest, IssueCouponRequest

CROWDS = ((10_000, 1), (5_000, 50))
"""How many ask, and how many coupons there are."""
TIMEOUT_MS = 60_000


@dataclass(slots=True)
class CrowdTally:
    """What the crowd was told."""

    codes: list[str] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def is_exact(self, crowd: int, total: int) -> bool:
        """Whether as many different codes were handed out as there were, and everybody else was told so."""
        expected = {"sold out": crowd - total}
        return len(self.codes) == len(set(self.codes)) == total and self.refusals == expected and not self.failures

    def __str__(self) -> str:
        said = [f"{len(self.codes):,} codes ({len(set(self.codes)):,} different)"]
        said += [f"{count:,} {error}" for error, count in self.refusals.items()]
        said.append(f"{self.failures.total():,} failed")
        return ", ".join(said) + "".join(f"\n  {count:,} × {failure}" for failure, count in self.failures.items())


async def ask_all(client: CouponServiceClient, campaign: str, crowd: int, headers: dict[str, str]) -> CrowdTally:
    """So many requests at once; one request is one person, who asks once."""
    tally = CrowdTally()
    request = IssueCouponRequest(campaign_id=campaign)

    async def ask() -> None:
        try:
            said = await client.issue_coupon(request, headers=headers)
        except Exception as failure:
            tally.failures[f"{type(failure).__name__}: {failure}"] += 1
            return
        if said.code:
            tally.codes.append(said.code)
        else:
            tally.refusals[said.error] += 1

    await asyncio.gather(*(ask() for _ in range(crowd)))
    return tally


async def sell(url: str, key: str | None, *, codec: Codec, connections: int) -> bool:
    """The two sales, one after the other. Whether both were exact."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = HTTPTransport(max_connections_per_address=connections, pool_max_idle_per_host=connections)
    client = CouponServiceClient(
        url, codec=codec, send_compression=None, timeout_ms=TIMEOUT_MS, http_client=Client(transport)
    )
    exact = True
    for crowd, total in CROWDS:
        campaign = CreateCampaignRequest(name=f"Flash sale of {total}", total=total, start_time=Timestamp(seconds=1))
        made = await client.create_campaign(campaign, headers=headers)
        started = time.perf_counter()
        tally = await ask_all(client, made.campaign_id, crowd, headers)
        seconds = time.perf_counter() - started
        shown = await client.get_campaign(GetCampaignRequest(campaign_id=made.campaign_id), headers=headers)
        print(f"{crowd:,} ask for {total}: {tally}; {seconds:.1f} s")
        print(f"  the campaign says that it has issued {len(shown.issued_codes):,}")
        same = sorted(shown.issued_codes) == sorted(tally.codes)
        exact = exact and same and tally.is_exact(crowd, total)
    return exact


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", help="an API key with the scopes redeem and admin")
    parser.add_argument("--binary", action="store_true", help="binary protobuf instead of JSON")
    parser.add_argument("--connections", type=int, default=1_000, help="open connections at most")
    options = parser.parse_args()
    codec = google_protobuf_binary_codec() if options.binary else google_protobuf_json_codec()
    exact = asyncio.run(sell(options.url, options.key, codec=codec, connections=options.connections))
    print("exactly what there was" if exact else "NOT exact")
    sys.exit(0 if exact else 1)


if __name__ == "__main__":
    main()
