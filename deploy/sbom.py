"""Complete the SBOM that cyclonedx-py wrote, check its licences, write the third-party notices. `make sbom` runs it.

    python deploy/sbom.py BOM PIP_REPORT PACKAGES NOTICES

BOM is changed in place: each component gets the SHA-256 of the archive that pip installed, from PIP_REPORT, and what
is vendored is added. NOTICES gets the licence texts that are in PACKAGES, a site-packages folder, and those of what is
vendored. Exit code 1 if a component has no licence, or one that is not permissive.
"""

from __future__ import annotations

import json
import re
import sys
from base64 import b64decode
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, Final

PERMISSIVE: Final = frozenset(
    {
        "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0", "PostgreSQL", "PSF-2.0",
        "Python-2.0", "Unlicense", "Zlib",
        # A copyleft for each file, used unchanged.
        "MPL-2.0",
    }
)  # fmt: skip
NAMES: Final = {
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "isc license": "ISC",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "mit license": "MIT",
    "3-clause bsd license": "BSD-3-Clause",
    "public domain": "CC0-1.0",
}
"""Licences that a package names in its own words, in lower case."""
VENDORED: Final = (Path(__file__).parents[1] / "issuer" / "http" / "docs" / "swagger_ui",)
"""Folders with files of an npm package, described by `origin.json` (see deploy/viewer.py)."""
_TEXT_NAME: Final = re.compile(r"(licen[cs]e|copying|notice)[^/]*", re.IGNORECASE)


def is_permissive(expression: str) -> bool:
    """Whether an SPDX expression permits what this project does. With AND or parentheses every licence in it must."""
    words = re.findall(r"[A-Za-z0-9.+-]+", expression)
    ids = [word for word in words if word not in ("AND", "OR", "WITH")]
    permitted = [name in PERMISSIVE for name in ids]
    if "(" in expression or "AND" in words or "WITH" in words:
        return bool(permitted) and all(permitted)
    return any(permitted)


def licences_of(component: dict[str, Any]) -> list[str]:
    """Return the declared licences of a component as SPDX expressions, where they can be read as such."""
    found = []
    for entry in component.get("licenses", []):
        licence = entry.get("license", {})
        text: str = entry.get("expression") or licence.get("id") or licence.get("name", "")
        if text.startswith("declared license of "):
            # The generator puts the words of the package there.
            text = licence.get("text", {}).get("content", "")
        text = text.removeprefix("License :: ").removeprefix("OSI Approved :: ").strip()
        if "\n" not in text and not text.startswith("declared license file"):
            # Otherwise it is the text of a licence that another entry names.
            found.append(NAMES.get(text.lower(), text))
    return list(dict.fromkeys(found))


def fault_of(component: dict[str, Any]) -> str | None:
    """Return why a component may not be shipped, or None. Of several declared licences each must be permissive."""
    name = f"{component['name']} {component.get('version', '')}"
    licences = licences_of(component)
    if not licences:
        return f"{name} declares no licence"
    odd = [licence for licence in licences if not is_permissive(licence)]
    return f"{name}: {', '.join(odd)} is not in the list of permissive licences" if odd else None


def normal(name: str) -> str:
    """Return the name of a package as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def add_hashes(bom: dict[str, Any], report: dict[str, Any]) -> list[str]:
    """Add to each component the hash of its archive. Return the components without one."""
    hashes = {}
    for installed in report["install"]:
        digest = installed["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        hashes[normal(installed["metadata"]["name"])] = digest
    lacking = []
    for component in bom["components"]:
        digest = hashes.get(normal(component["name"]))
        if digest is None:
            lacking.append(component["name"])
        else:
            component["hashes"] = [{"alg": "SHA-256", "content": digest}]
    return lacking


def vendored_component(folder: Path) -> dict[str, Any]:
    """Return the component that a folder of vendored files comes from."""
    origin = json.loads((folder / "origin.json").read_text())
    digest = b64decode(origin["integrity"].removeprefix("sha512-")).hex()
    purl = f"pkg:npm/{origin['name']}@{origin['version']}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": origin["name"],
        "version": origin["version"],
        "purl": purl,
        "licenses": [{"license": {"id": origin["licence"]}}],
        "hashes": [{"alg": "SHA-512", "content": digest}],
    }


def texts_of(package: Distribution) -> list[str]:
    """Return the licence texts and notices that a package ships, each once."""
    texts = []
    for file in package.files or ():
        path = Path(str(package.locate_file(file)))
        if _TEXT_NAME.fullmatch(file.name) and file.suffix != ".py" and path.is_file():
            texts.append(path.read_text(errors="replace").strip())
    return list(dict.fromkeys(texts))


def notices(bom: dict[str, Any], packages: Path) -> str:
    """Return the third-party notices: each component with its licence and the texts that it ships."""
    shipped = {normal(package.name): package for package in distributions(path=[str(packages)])}
    parts = []
    texts = {normal(name): texts_of(package) for name, package in shipped.items()}
    for folder in VENDORED:
        files = [file for file in sorted(folder.iterdir()) if _TEXT_NAME.search(file.name) and file.suffix != ".py"]
        texts[normal(vendored_component(folder)["name"])] = [file.read_text().strip() for file in files]
    for component in sorted(bom["components"], key=lambda component: normal(component["name"])):
        title = f"{component['name']} {component.get('version', '')} ({' / '.join(licences_of(component))})"
        parts.append("\n\n".join([f"{title}\n{'=' * len(title)}", *texts.get(normal(component["name"]), ())]))
    return "\n\n\n".join(parts) + "\n"


def main(bom_path: Path, report_path: Path, packages: Path, notices_path: Path) -> int:
    bom: dict[str, Any] = json.loads(bom_path.read_text())
    lacking = add_hashes(bom, json.loads(report_path.read_text()))
    bom["components"] += [vendored_component(folder) for folder in VENDORED]
    bom_path.write_text(json.dumps(bom, indent=2, sort_keys=True) + "\n")
    notices_path.write_text(notices(bom, packages))
    faults = [fault for component in bom["components"] if (fault := fault_of(component))]
    faults += [f"{name}: the hash of its archive is unknown" for name in lacking]
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    print(f"{len(bom['components'])} components: {bom_path}, {notices_path}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
