"""Print a CycloneDX 1.5 list of what the image holds: packages of Debian, Python and npm. Runs inside the image.

Uses the standard library alone, since the image has neither pip nor anything else that only lists packages.
"""

import json
import sys
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import quote

DPKG_STATUS = Path("/var/lib/dpkg/status")
OS_RELEASE = Path("/etc/os-release")


def component(kind: str, name: str, version: str, licence: str = "") -> dict[str, object]:
    """Describe a package by its package URL: `kind` is `pypi`, or `deb/` and the distribution."""
    purl = f"pkg:{kind}/{quote(name)}@{quote(version)}"
    described: dict[str, object] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return described | ({"licenses": [{"license": {"name": licence}}]} if licence else {})


def python_packages() -> list[dict[str, object]]:
    """List the distributions on Python's path, each once, the first that Python would import."""
    found: dict[str, dict[str, object]] = {}
    for distribution in distributions():
        meta = distribution.metadata
        name = (meta["Name"] or "").lower().replace("_", "-").replace(".", "-")
        licence = meta.get("License-Expression") or (meta.get("License") or "").partition("\n")[0]
        if name:
            found.setdefault(name, component("pypi", name, distribution.version, licence))
    return [found[name] for name in sorted(found)]


def javascript_packages() -> list[dict[str, object]]:
    """List the bundle of NiiVue that serves the page of `crossmoda-grl view`, if it is there."""
    bundles = [file for folder in sys.path for file in Path(folder).glob("pipeline/inference/viewer/static/*.umd.js")]
    versions = sorted({file.name.removeprefix("niivue-").removesuffix(".umd.js") for file in bundles})
    return [component("npm", "@niivue/niivue", version, "BSD-2-Clause") for version in versions]


def debian_packages() -> list[dict[str, object]]:
    """List the packages that dpkg has installed; none where there is no dpkg."""
    if not DPKG_STATUS.exists():
        return []
    release = dict(line.split("=", 1) for line in OS_RELEASE.read_text().splitlines() if "=" in line)
    kind = f"deb/{release.get('ID', 'debian').strip(chr(34))}"
    found = []
    for block in DPKG_STATUS.read_text(encoding="utf-8").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(" "))
        if fields.get("Status", "").endswith(" installed"):
            found.append(component(kind, fields["Package"], fields["Version"]))
    return found


def main() -> None:
    """Print the document; the argument is the image's id."""
    image = sys.argv[1] if len(sys.argv) > 1 else "unknown"
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "component": {"type": "container", "bom-ref": "image", "name": "crossmoda-grl", "version": image},
        },
        "components": debian_packages() + python_packages() + javascript_packages(),
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
