"""Hashes of packages, the list of what the image holds, and whether a pinned package has known vulnerabilities."""

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PINS = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line and line[0] != "#"]


def test_every_pin_has_hashes():
    text = (ROOT / "requirements.hashed").read_text().replace("\\\n", "")
    hashed = [line.split() for line in text.splitlines() if line[0] != "#"]
    assert [pin for pin, *_ in hashed] == PINS
    for _, *hashes in hashed:
        assert hashes
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", each) for each in hashes)


def write_wheel(path, code):
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("little.py", code)
        wheel.writestr("little-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: little\nVersion: 1.0\n")
        wheel.writestr("little-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("little-1.0.dist-info/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_wheel_with_other_bytes_is_refused(tmp_path):
    """By pip, with the options of the Dockerfile."""
    wheel = tmp_path / "little-1.0-py3-none-any.whl"
    digest = write_wheel(wheel, "good = True\n")
    (tmp_path / "requirements.hashed").write_text(f"little==1.0 \\\n    --hash=sha256:{digest}\nother==1.0\n")
    (tmp_path / "requirements.txt").write_text("little\n")
    options = "--require-hashes -c requirements.hashed"
    assert f'hashed="{options}"' in (ROOT / "Dockerfile").read_text()
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", ".", "--target", "out"]
    command += [*options.split(), "-r", "requirements.txt"]

    def install():
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = install()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "little.py").exists()
    write_wheel(wheel, "good = False\n")
    done = install()
    assert done.returncode == 1
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_the_list_names_every_installed_package_once():
    done = subprocess.run([sys.executable, ROOT / "image" / "sbom.py", "sha256:1"], capture_output=True, check=True)
    document = json.loads(done.stdout)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    assert document["metadata"]["component"]["version"] == "sha256:1"
    references = [component["bom-ref"] for component in document["components"]]
    assert len(references) == len(set(references))
    assert any(reference.startswith("pkg:pypi/numpy@") for reference in references)
    for component in document["components"]:
        assert component.keys() >= {"type", "name", "version", "purl"}
        assert component["version"]


@pytest.fixture
def database():
    """Answers as OSV does, and knows one vulnerability if it is told to."""

    class Handler(http.server.BaseHTTPRequestHandler):
        known = False

        def do_POST(self):
            queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            hit = [
                {"vulns": [{"id": "OSV-1"}]} if self.known and q["package"]["name"] == "numpy" else {} for q in queries
            ]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"results": hit}).encode())

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def audit(url):
    return subprocess.run(
        [sys.executable, ROOT / ".ci" / "audit"],
        env=os.environ | {"OSV_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_audit_says_what_is_known(database):
    handler, url = database
    done = audit(url)
    assert (done.returncode, done.stdout) == (0, f"audit: 0 known vulnerabilities of {len(PINS)} pinned packages\n")
    handler.known = True
    done = audit(url)
    assert done.returncode == 1
    assert "numpy 2" in done.stdout
    assert "OSV-1" in done.stdout


def test_the_audit_says_that_it_was_not_done():
    done = audit("http://127.0.0.1:1")
    assert done.returncode == 0
    assert "audit: NOT DONE, no advisory database answers" in done.stdout
