"""Write the vendored files of the API viewer from its npm package. `make viewer` runs it; it needs npm.

`origin.json` pins the package: version, and the hash of the archive (`npm view NAME@VERSION dist.integrity`). An
archive with another hash is refused. No script of the package runs, and none of its dependencies is installed. Scripts
and styles are stored with gzip, as they are sent; `origin.json` gets the hash of each file.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parents[1] / "issuer" / "http" / "docs" / "swagger_ui"
FILES: Final = ("swagger-ui-bundle.js", "swagger-ui.css")
NOTICES: Final = ("LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt")


def download(origin: dict[str, Any], folder: Path) -> Path:
    """Return the archive of the pinned package."""
    command = ["npm", "pack", "--silent", f"{origin['name']}@{origin['version']}"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    archive = folder / done.stdout.split()[-1]
    found = "sha512-" + b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != origin["integrity"]:
        sys.exit(f"error: the archive of {origin['name']} {origin['version']} has the hash {found}")
    return archive


def main() -> None:
    origin: dict[str, Any] = json.loads((FOLDER / "origin.json").read_text())
    with tempfile.TemporaryDirectory() as folder, tarfile.open(download(origin, Path(folder))) as archive:
        for name in (*FILES, *NOTICES):
            member = archive.extractfile(f"package/{name}")
            assert member is not None
            content = member.read()
            origin["files"][name] = hashlib.sha256(content).hexdigest()
            if name in FILES:
                (FOLDER / f"{name}.gz").write_bytes(gzip.compress(content, 9, mtime=0))
            else:
                (FOLDER / name).write_bytes(content)
    (FOLDER / "origin.json").write_text(json.dumps(origin, indent=2) + "\n")
    print(f"{origin['name']} {origin['version']}: {', '.join(origin['files'])}")


if __name__ == "__main__":
    main()
