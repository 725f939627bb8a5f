"""A flash sale: a crowd requests the few codes of a campaign at the same time, and the results are counted.

    python examples/flash_sale.py --url http://127.0.0.1:8000 --key isk_…

creates two campaigns and sends all requests of a crowd concurrently: 10,000 requests for 1 code, then 5,000 for 50
(--requests changes both).
The API key needs the scopes redeem and admin; with ISSUER_AUTH=off no key is needed. The requests use JSON, or binary
protobuf with --binary, over HTTP/1.1, and the client of the Connect project's Python library.
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

REQUESTS = 10_000
TIMEOUT_MS = 60_000


@dataclass(slots=True)
class CrowdTally:
    """The results of a crowd: issued codes, refusals by error, failed requests by exception."""

    codes: list[str] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def is_exact(self, crowd: int, total: int) -> bool:
        """Return whether `total` distinct codes were issued and every other request was answered with sold out."""
        expected = {"sold out": crowd - total}
        return len(self.codes) == len(set(self.codes)) == total and self.refusals == expected and not self.failures

    def __str__(self) -> str:
        results = [f"{len(self.codes):,} codes ({len(set(self.codes)):,} distinct)"]
        results += [f"{count:,} {error}" for error, count in self.refusals.items()]
        results.append(f"{self.failures.total():,} failed")
        return ", ".join(results) + "".join(f"\n  {count:,} × {failure}" for failure, count in self.failures.items())


async def request_all(client: CouponServiceClient, campaign: str, crowd: int, headers: dict[str, str]) -> CrowdTally:
    """Send one request for each person in the crowd, all of them concurrently."""
    tally = CrowdTally()
    message = IssueCouponRequest(campaign_id=campaign)

    async def request_code() -> None:
        try:
            response = await client.issue_coupon(message, headers=headers)
        except Exception as failure:
            tally.failures[f"{type(failure).__name__}: {failure}"] += 1
            return
        if response.code:
            tally.codes.append(response.code)
        else:
            tally.refusals[response.error] += 1

    await asyncio.gather(*(request_code() for _ in range(crowd)))
    return tally


async def sell(url: str, key: str | None, *, codec: Codec, requests: int, connections: int) -> bool:
    """Run both sales, one after the other. Return whether both were exact."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = HTTPTransport(max_connections_per_address=connections, pool_max_idle_per_host=connections)
    client = CouponServiceClient(
        url, codec=codec, send_compression=None, timeout_ms=TIMEOUT_MS, http_client=Client(transport)
    )
    exact = True
    for crowd, total in ((requests, 1), (requests // 2, 50)):
        campaign = CreateCampaignRequest(name=f"Flash sale of {total}", total=total, start_time=Timestamp(seconds=1))
        created = await client.create_campaign(campaign, headers=headers)
        started = time.perf_counter()
        tally = await request_all(client, created.campaign_id, crowd, headers)
        seconds = time.perf_counter() - started
        shown = await client.get_campaign(GetCampaignRequest(campaign_id=created.campaign_id), headers=headers)
        print(f"{crowd:,} requests for {total}: {tally}; {seconds:.1f} s")
        print(f"  issued according to the campaign: {len(shown.issued_codes):,}")
        same = sorted(shown.issued_codes) == sorted(tally.codes)
        exact = exact and same and tally.is_exact(crowd, total)
    return exact


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", help="an API key with the scopes redeem and admin")
    parser.add_argument("--binary", action="store_true", help="binary protobuf instead of JSON")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="of the first sale; the second has half")
    parser.add_argument("--connections", type=int, default=1_000, help="maximum number of open connections")
    options = parser.parse_args()
    codec = google_protobuf_binary_codec() if options.binary else google_protobuf_json_codec()
    exact = asyncio.run(
        sell(options.url, options.key, codec=codec, requests=options.requests, connections=options.connections)
    )
    print("exact: every code was issued once" if exact else "NOT exact")
    sys.exit(0 if exact else 1)


if __name__ == "__main__":
    main()
