"""The committed code of the coupon service is what its contract makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from issuer.http.campaigns.connect_service import METHOD_PATHS
from issuer.http.rpc.coupon import coupon_pb2

ROOT = Path(__file__).parents[2]


def test_make_rpc_would_change_nothing(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "grpc_tools.protoc", "-I", "proto", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}",
        f"--connectrpc_out={tmp_path}", "--connectrpc_opt=protobuf=google", "coupon/coupon.proto",
    ]  # fmt: skip
    plugins = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": plugins}, check=True)
    made = sorted((tmp_path / "coupon").iterdir())
    assert [file.name for file in made] == ["coupon_connect.py", "coupon_pb2.py", "coupon_pb2.pyi"]
    for file in made:
        assert file.read_text() == (ROOT / "issuer" / "http" / "rpc" / "coupon" / file.name).read_text()


def test_every_method_has_a_route() -> None:
    service = coupon_pb2.DESCRIPTOR.services_by_name["CouponService"]
    assert {f"/{service.full_name}/{method.name}" for method in service.methods} == set(METHOD_PATHS)
