"""The server: to this machine alone, behind its token, and nothing but the page and the cases that it was given."""

import http.client
import json
import threading

import nibabel
import numpy as np
import pytest

from challenge.contract import STRUCTURES
from pipeline.inference.viewer.cases import CaseFiles
from pipeline.inference.viewer.server import ViewerServer
from tests.pipeline.inference.viewer.volumes import prediction, write_case


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    (folder / "secret.txt").write_text("secret")
    sound = write_case(folder)
    (folder / "bad.nii.gz").write_bytes(b"no scan")
    cases = [sound, CaseFiles("bad", folder / "bad.nii.gz", sound.labels, None)]
    told = []
    with ViewerServer(cases, STRUCTURES, told.append) as started:
        started.told = told
        thread = threading.Thread(target=started.serve_forever, daemon=True)
        thread.start()
        yield started
        started.shutdown()
        thread.join()


def ask(server, path, host=None, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", f"127.0.0.1:{server.server_port}" if host is None else host)
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def own(server, name=""):
    return "/" + server.url.split("/", 3)[3] + name


def test_the_page_and_its_cases(server):
    answer, page = ask(server, own(server))
    assert answer.status == 200
    assert b"<title>" in page
    assert json.loads(ask(server, own(server, "cases.json"))[1])["cases"] == ["crossmoda_1", "bad"]
    case = json.loads(ask(server, own(server, "cases/0/case.json"))[1])
    assert sorted(case["roles"]) == ["prediction", "reference", "scan"]
    served = nibabel.Nifti1Image.from_bytes(ask(server, own(server, "cases/0/prediction.nii"))[1])
    assert np.count_nonzero(np.asarray(served.dataobj)) == np.count_nonzero(prediction())


def test_every_answer_keeps_other_pages_out(server):
    for path in (own(server), own(server, "nothing"), "/"):
        headers = ask(server, path)[0].headers
        assert "default-src 'none'; script-src 'self';" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Access-Control-Allow-Origin" not in headers


def test_everything_else_is_not_there(server):
    token = own(server).strip("/")
    wrong = ("x" if token[0] != "x" else "y") + token[1:]
    paths = ["/", "//", "/page.html", "/cases.json", f"/{wrong}/", f"/{token}", f"/{token[:-1]}/", "x"]
    paths += [own(server, name) for name in ("../", "?", "secret.txt", "page.html", "server.py", "cases/")]
    paths += [own(server, f"cases/0/{name}") for name in ("labels.nii", "crossmoda_1_hrT2.nii.gz", "../../secret.txt")]
    paths += [own(server, f"cases/{name}") for name in ("1/scan.nii", "2/case.json", "-1/case.json")]
    for path in paths:
        answer, content = ask(server, path)
        assert (answer.status, content) == (404, b"404\n"), path


def test_a_foreign_name_for_this_machine_does_not_count(server):
    port = server.server_port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", ""):
        assert ask(server, own(server), host)[0].status == 404, host
    assert ask(server, own(server), f"localhost:{port}")[0].status == 200


def test_other_methods_do_nothing(server):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(server, own(server), method=method)[0].status == 501


def test_tokens_are_long_and_differ(server):
    with ViewerServer([], STRUCTURES, print) as other:
        assert own(other) != own(server)
        assert other.server_address[0] == "127.0.0.1"
    assert len(own(server)) >= 30


def test_a_bad_case_is_told_to_the_page_and_the_terminal(server):
    case = json.loads(ask(server, own(server, "cases/1/case.json"))[1])
    assert case["error"].startswith("bad.nii.gz: expected")
    assert server.told == [f"bad: {case['error']}"]
    assert ask(server, own(server, "cases/0/scan.nii"))[0].status == 200
