"""Clients that speak HTTP/2 without asking, such as gRPC's: each call ends at once, with a reason that they read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import grpc
import pytest

from issuer.http.edge.http2_refusal import MAX_FRAME, MAX_SENT, MESSAGE, PREFACE
from issuer.http.edge.limits import EdgeLimits
from issuer.http.rpc.coupon.coupon_pb2 import IssueCouponRequest
from tests.support.counting_server import CountingServer
from tests.support.raw_http import read_all

SETTINGS: Final = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
PING: Final = b"\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678"


@pytest.fixture(scope="module")
def server() -> Iterator[CountingServer]:
    with CountingServer(EdgeLimits(receive_timeout_s=60)) as running:
        yield running


def test_a_grpc_client_gets_the_name_of_what_to_use_instead(server: CountingServer) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.unary_unary(
            "/coupon.CouponService/IssueCoupon", request_serializer=IssueCouponRequest.SerializeToString
        )
        calls = [call.future(IssueCouponRequest(campaign_id="x" * size), timeout=20) for size in (1, 100, 100_000)]
        for failed in calls:
            error = failed.exception()
            assert isinstance(error, grpc.RpcError)
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
            assert error.details() == MESSAGE.decode()
    assert server.app.seen == []


def test_frames_are_read_in_any_pieces(server: CountingServer) -> None:
    with server.connect() as connection:
        connection.sendall(PREFACE)
        for byte in SETTINGS + PING:
            connection.sendall(bytes([byte]))
        answers = b""
        while len(answers) < len(SETTINGS) * 2 + len(PING):
            answers += connection.recv(1024)
        assert answers == SETTINGS + SETTINGS.replace(b"\x04\x00", b"\x04\x01") + PING.replace(b"\x06\x00", b"\x06\x01")
        # A client that ends its connection says so.
        connection.sendall(b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + bytes(8))
        assert read_all(connection) == b""


@pytest.mark.parametrize(
    "frames",
    [b"%b\x04\x00\x00\x00\x00\x00" % (MAX_FRAME + 1).to_bytes(3), PING * (MAX_SENT + 2)],
    ids=["large", "many"],
)
def test_what_a_client_can_make_the_server_keep_and_send_is_bounded(server: CountingServer, frames: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(PREFACE + SETTINGS + frames)
        assert read_all(connection).count(b"12345678") <= MAX_SENT
