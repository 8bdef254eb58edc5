"""NiiVue: what is fetched is what was published, or nothing."""

import base64
import hashlib
import io
import tarfile

import pytest

from pipeline.inference.viewer import niivue


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry on disk whose NiiVue is a line, and an empty folder for the bundle."""
    (tmp_path / "static").mkdir()
    monkeypatch.setattr(niivue, "STATIC", tmp_path / "static")
    monkeypatch.setattr(niivue, "BUNDLE", tmp_path / "static" / "niivue-1.2.3.umd.js")
    monkeypatch.setattr(niivue, "VERSION", "1.2.3")
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"file://{tmp_path}/")
    tarball = tmp_path / "@niivue" / "niivue" / "-" / "niivue-1.2.3.tgz"
    tarball.parent.mkdir(parents=True)
    with tarfile.open(tarball, "w:gz") as archive:
        content = b"var niivue;"
        member = tarfile.TarInfo("package/dist/niivue.umd.js")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    digest = hashlib.sha512(tarball.read_bytes()).digest()
    monkeypatch.setattr(niivue, "INTEGRITY", "sha512-" + base64.b64encode(digest).decode())
    return tarball


def test_the_bundle_is_kept_and_others_are_removed(registry):
    old = niivue.STATIC / "niivue-1.0.0.umd.js"
    old.write_text("old")
    with pytest.raises(niivue.NiiVueError, match=r"fetch it with: python -m pipeline\.inference\.viewer\.niivue"):
        niivue.require_bundle()
    assert niivue.fetch() == niivue.BUNDLE
    assert [path.read_text() for path in niivue.STATIC.iterdir()] == ["var niivue;"]
    registry.unlink()
    assert niivue.fetch() == niivue.BUNDLE  # not fetched again
    niivue.require_bundle()


def test_another_tarball_is_refused(registry):
    registry.write_bytes(registry.read_bytes() + b"\0")
    with pytest.raises(niivue.NiiVueError, match="expected the tarball sha512-"):
        niivue.fetch()
    assert list(niivue.STATIC.iterdir()) == []


def test_a_registry_that_does_not_answer_is_named(registry, monkeypatch, capsys):
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9/npm")
    assert niivue.main() == 1
    told = capsys.readouterr().err
    assert told.startswith("http://127.0.0.1:9/npm/@niivue/niivue/-/niivue-1.2.3.tgz: expected NiiVue 1.2.3, got: ")
    assert "NPM_CONFIG_REGISTRY" in told
