"""The server answers the page alone, and nothing malformed makes it fail."""

import http.client
import json

import numpy as np
import pytest
from made_sessions import SIZE, images, served, session_of

from core.images.labels import read_labels
from plugins.segmentation.label.server import FILES

RAW = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = images(tmp_path_factory.mktemp("images"))
    with served(session_of(folder)) as server:
        server.folder = folder
        yield server


def ask(server, path, method="GET", body=None, headers=(), *, token=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    start = f"/{server.token if token is None else token}/"
    connection.putrequest(method, start + path, skip_host="Host" in dict(headers))
    sent = {"Content-Length": str(len(body))} if body is not None else {}
    for name, value in {**sent, **dict(headers)}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    found = answer.status, answer.read(), answer.headers
    connection.close()
    return found


def test_the_page_is_ours_alone_and_fetches_nothing_else(server):
    for name in FILES:
        status, body, headers = ask(server, name)
        assert status == 200
        text = body.decode()
        assert "http://" not in text
        assert "https://" not in text
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("token", ["", "x", "%00", "%C3%A9", "a" * 5000])
def test_without_the_token_there_is_nothing(server, token):
    for path in ("", "state", "image/0", "nothing"):
        status, body, _ = ask(server, path, token=token)
        assert (status, body) == (403, b"open the whole address that was printed\n")


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1", "localhost:1", ""])
def test_another_host_is_refused_even_with_the_token(server, host):
    assert ask(server, "state", headers={"Host": host})[0] == 421
    fine = {"Host": f"localhost:{server.server_port}"}
    assert ask(server, "state", headers=fine)[0] == 200


@pytest.mark.parametrize(
    "header",
    [{"Origin": "https://example.org"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
)
def test_pages_of_other_sites_can_neither_read_nor_paint(server, header):
    assert ask(server, "state", headers=header)[0] == 403
    query = "mask/0?left=0&top=0&width=1&height=1"
    assert ask(server, query, "POST", b"\0", {**RAW, **header})[0] == 403


@pytest.mark.parametrize(
    "path",
    ["../../etc/passwd", "page/../../../pyproject.toml", "%2e%2e/state", "image/../0", "image/2",
     "image/-1", "image/x", "image/", "mask", "image/0/..", "image//etc/passwd", "page.py",
     "prediction/99999999999999", "image/%D9%A0"],
)  # fmt: skip
def test_paths_that_are_not_the_pages_are_not_found(server, path):
    status, body, _ = ask(server, path)
    assert status == 404
    assert body.startswith(b"no such ")


def test_the_state_names_images_and_classes(server):
    state = json.loads(ask(server, "state")[1])
    assert [image["name"] for image in state["images"]] == ["a", "b"]
    assert [one["name"] for one in state["classes"]] == ["ground", "disc"]
    assert state["suggested"] is None
    status, body, headers = ask(server, "image/0")
    assert (status, body[:4], headers["Content-Type"]) == (200, b"\x89PNG", "image/png")


def test_a_stroke_is_saved_before_it_is_answered(server):
    labels = np.array([[1, 0, 255], [1, 1, 0]], np.uint8)
    query = "mask/1?left=10&top=20&width=3&height=2"
    status, body, _ = ask(server, query, "POST", labels.tobytes(), RAW)
    assert (status, json.loads(body)) == (200, {"saved": "b_mask.png"})
    assert np.array_equal(read_labels(server.folder / "b_mask.png")[20:22, 10:13], labels)
    _, body, headers = ask(server, "mask/1")
    assert (headers["Polymode-Height"], headers["Polymode-Width"]) == ("48", "64")
    assert np.array_equal(np.frombuffer(body, np.uint8).reshape(SIZE)[20:22, 10:13], labels)


BOX = "mask/0?left=0&top=0&width=2&height=2"


@pytest.mark.parametrize(
    ("query", "body", "headers", "status"),
    [
        (BOX, b"\0" * 3, {}, 400),  # fewer than the rectangle has
        (BOX, b"\0" * 5, {}, 400),
        (BOX, b"\x02" * 4, {}, 400),  # a class that there is not
        (BOX, b"\0" * 4, {"Content-Type": "text/plain"}, 415),
        (BOX, b"\0" * 4, {"Content-Length": "-1"}, 411),
        (BOX, b"\0" * 4, {"Content-Length": "1e9"}, 411),
        (BOX, b"\0" * 4, {"Content-Length": "99999999"}, 400),
        (BOX, b"4\r\n\0\0\0\0\r\n0\r\n\r\n", {"Transfer-Encoding": "chunked"}, 411),
        ("mask/0", b"\0", {}, 400),
        ("mask/0?left=0&top=0&width=0&height=0", b"", {}, 400),
        ("mask/0?left=0&top=0&width=x&height=1", b"\0", {}, 400),
        ("mask/0?left=63&top=0&width=2&height=1", b"\0\0", {}, 400),
        ("mask/0?left=0&top=0&width=99999&height=99999", b"\0", {}, 400),
        ("mask/0?" + "a=1&" * 20, b"\0", {}, 400),
        ("mask/9?left=0&top=0&width=1&height=1", b"\0", {}, 404),
        ("state", b"", {}, 404),
    ],
)
def test_malformed_strokes_are_refused_in_a_line_and_paint_nothing(
    server, capsys, query, body, headers, status
):
    found, text, _ = ask(server, query, "POST", body, {**RAW, **headers})
    assert found == status, text
    assert text.count(b"\n") == 1
    assert b"Traceback" not in text
    assert not (server.folder / "a_mask.png").exists()
    assert capsys.readouterr().err == ""
    assert ask(server, "state")[0] == 200


def test_a_body_that_ends_early_is_refused(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest("POST", f"/{server.token}/{BOX}")
    connection.putheader("Content-Type", RAW["Content-Type"])
    connection.putheader("Content-Length", "4")
    connection.endheaders(b"\0\0")
    connection.sock.shutdown(1)
    assert connection.getresponse().status == 400


def test_other_methods_are_refused_in_plain_text(server):
    for method in ("PUT", "DELETE", "OPTIONS", "BREW"):
        status, body, _ = ask(server, "state", method)
        assert status == 501
        assert b"<" not in body


def test_an_image_that_cannot_be_read_is_a_sentence(tmp_path):
    folder = images(tmp_path)
    (folder / "c.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with served(session_of(folder)) as server:
        status, body, _ = ask(server, "image/2")
    assert status == 400
    assert b"c.png" in body
