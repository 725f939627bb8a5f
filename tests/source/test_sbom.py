"""The SBOM: licences that may be shipped, hashes from pip's report, notices."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "deploy" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def component(*licences: str, name: str = "Some_Package") -> dict[str, Any]:
    entries = [{"expression": text} if " " in text else {"license": {"id": text}} for text in licences]
    return {"name": name, "version": "1.0", "licenses": entries}


@pytest.mark.parametrize(
    "expression",
    ["MIT", "MIT OR GPL-3.0-only", "Apache-2.0 AND BSD-2-Clause", "MPL-2.0 AND (Apache-2.0 OR MIT)", "0BSD"],
)
def test_a_permissive_licence_passes(sbom: ModuleType, expression: str) -> None:
    assert sbom.is_permissive(expression)


@pytest.mark.parametrize(
    "expression",
    ["GPL-3.0-only", "MIT AND GPL-3.0-only", "GPL-3.0-only AND (Apache-2.0 OR MIT)", "", "Proprietary",
     "GPL-2.0-only WITH Classpath-exception-2.0"],
)  # fmt: skip
def test_any_other_licence_is_refused(sbom: ModuleType, expression: str) -> None:
    assert not sbom.is_permissive(expression)


def test_each_declared_licence_counts(sbom: ModuleType) -> None:
    assert sbom.fault_of(component("MIT", "BSD-3-Clause")) is None
    assert "AGPL-3.0-only is not" in sbom.fault_of(component("MIT", "AGPL-3.0-only"))
    assert "no licence" in sbom.fault_of(component())
    named = component()
    named["licenses"] = [
        {"license": {"name": "License :: OSI Approved :: Apache Software License"}},
        {"license": {"name": "declared license of 'x'", "text": {"content": "3-Clause BSD License"}}},
    ]
    named["licenses"] += [
        {"license": {"name": "declared license file: LICENSE", "text": {"content": "Q29w", "encoding": "base64"}}},
        {"license": {"name": "declared license of 'x'", "text": {"content": "MIT License\n\nCopyright"}}},
    ]
    assert sbom.licences_of(named) == ["Apache-2.0", "BSD-3-Clause"]
    assert sbom.fault_of(named) is None


def test_a_file_gets_hashes_and_notices(sbom: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packages = tmp_path / "packages"
    info = packages / "some_package-1.0.dist-info"
    (info / "licenses").mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: some-package\nVersion: 1.0\n")
    (info / "licenses" / "LICENSE.txt").write_text("Permission is hereby granted ©")
    (info / "RECORD").write_text(
        "some_package-1.0.dist-info/METADATA,,\nsome_package-1.0.dist-info/licenses/LICENSE.txt,,\n"
    )
    first = component("MIT")
    bom = {"components": [first, component("GPL-3.0-only", name="other")]}
    report = {
        "install": [
            {"metadata": {"name": "some-package"}, "download_info": {"archive_info": {"hashes": {"sha256": "ab" * 32}}}}
        ]
    }
    paths = [tmp_path / "bom.json", tmp_path / "report.json", packages, tmp_path / "notices.txt"]
    paths[0].write_text(json.dumps(bom))
    paths[1].write_text(json.dumps(report))
    assert sbom.main(*paths) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        "error: other 1.0: GPL-3.0-only is not in the list of permissive licences",
        "error: other: the hash of its archive is unknown",
    ]
    written = json.loads(paths[0].read_text())["components"]
    assert written[0]["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    notices = paths[3].read_text()
    assert "Permission is hereby granted ©" in notices
    # What is vendored is listed as well, with the texts of what it bundles.
    assert [one["purl"] for one in written[2:]] == [f"pkg:npm/swagger-ui-dist@{written[2]['version']}"]
    assert len(written[2]["hashes"][0]["content"]) == 128
    for text in ("Apache License", "SmartBear", "jedwatson"):
        assert text in notices
    paths[0].write_text(json.dumps({"components": [first]}))
    assert sbom.main(*paths) == 0
