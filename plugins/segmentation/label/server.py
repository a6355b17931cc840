"""The labelling page's server: loopback, one token, fixed files, sizes known before they are read.

Its address is ``http://127.0.0.1:PORT/TOKEN/``.  What has another Host or no token is refused
whatever it asks for, so that neither another user nor a page of another site reaches the images.
"""

import json
import re
import secrets
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import numpy as np

from core.errors import InputError, cut_lines
from plugins.segmentation.label.live import Prediction
from plugins.segmentation.label.session import PIXELS, Session, Waiting

PAGE = Path(__file__).parent / "page"
FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "canvas.js": ("canvas.js", "text/javascript; charset=utf-8"),
    "strokes.js": ("strokes.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
FIRST = (0, 180, 160)  # the first class on the page: black, as in masks, is not seen on images
SECONDS = 30  # that a client may take for a request
NUMBER = re.compile(r"\d{1,9}", re.ASCII)


class Refused(Exception):
    """A request that is not answered; its status and one line of text are sent."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Answer(NamedTuple):
    """A body and its type, with more headers."""

    body: bytes
    kind: str
    headers: dict[str, str] = {}  # noqa: RUF012  (a NamedTuple's default, never changed)


class Server(ThreadingHTTPServer):
    """The server of a session.

    Args:
        session: that is labelled.
        port: on loopback; 0 for a free one.

    Raises:
        InputError: the port cannot be had.
    """

    daemon_threads = True

    def __init__(self, session: Session, port: int = 0) -> None:
        self.session, self.token = session, secrets.token_urlsafe(24)
        self.files = {name: (PAGE / file).read_bytes() for name, (file, _) in FILES.items()}
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise InputError(f"port {port}: {error.strerror}; choose another, or 0") from error

    @property
    def address(self) -> str:
        """The URL that a browser opens."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One line of what went wrong, nothing of a browser that has gone away."""
        error = sys.exception()
        if not isinstance(error, OSError):
            print(cut_lines(f"label: {type(error).__name__}: {error}"), file=sys.stderr)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "polymode", ""
    error_content_type, error_message_format = "text/plain; charset=utf-8", "%(message)s\n"
    timeout = SECONDS

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the address holds the token."""

    @property
    def _site(self) -> Server:
        assert isinstance(self.server, Server), "it makes the handlers"
        return self.server

    # --- who may ask -----------------------------------------------------------------------------

    def _answer(self, found: Callable[[str, dict[str, str]], Answer]) -> None:
        try:
            answer, status = found(*self._asked()), HTTPStatus.OK
        except Refused as refused:
            answer, status = _text(str(refused)), refused.status
        except InputError as error:
            answer, status = _text(str(error)), HTTPStatus.BAD_REQUEST
        self._send(answer, status)

    def _send(self, answer: Answer, status: HTTPStatus) -> None:
        self.send_response(status)
        if status != HTTPStatus.OK:  # what is left of a request that was refused is not read
            self.close_connection = True
            self.send_header("Connection", "close")
        for name, value in {**HEADERS, **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def _asked(self) -> tuple[str, dict[str, str]]:
        """The path below the token and the query.

        Raises:
            Refused: another Host, another site's page, or no token.
        """
        port = self._site.server_port
        hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        if self.headers.get_all("Host", []) not in [[host] for host in hosts]:
            raise Refused(HTTPStatus.MISDIRECTED_REQUEST, "expected the host that was printed")
        origin = self.headers.get("Origin")
        site = self.headers.get("Sec-Fetch-Site", "none")
        if origin not in {None, *(f"http://{host}" for host in hosts)} or (
            site not in {"none", "same-origin"}
        ):
            raise Refused(HTTPStatus.FORBIDDEN, "a page of another site asks for this")
        try:
            split = urlsplit(self.path)
            query = parse_qs(split.query, max_num_fields=8, strict_parsing=bool(split.query))
        except ValueError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, "not a query that can be read") from error
        start, slash, rest = split.path.removeprefix("/").partition("/")
        if not slash or not secrets.compare_digest(start.encode(), self._site.token.encode()):
            raise Refused(HTTPStatus.FORBIDDEN, "open the whole address that was printed")
        return rest, {name: values[-1] for name, values in query.items()}

    # --- what is there ---------------------------------------------------------------------------

    def _get(self, path: str, query: dict[str, str]) -> Answer:
        if path in FILES:
            return Answer(self._site.files[path], FILES[path][1])
        session, (what, number) = self._site.session, self._which(path)
        match what:
            case "state":
                return _json(_state(session))
            case "suggestions":
                return _json(_suggestions(session))
            case "image" if number is not None:
                return Answer(session.picture(number), "image/png")
            case "mask" if number is not None:
                mask = session.mask(number)
                return _raw(mask.tobytes(), mask.shape)
            case "prediction" if number is not None:
                return _predicted(session.predict(number))
        raise Refused(HTTPStatus.NOT_FOUND, "no such page")

    def _post(self, path: str, query: dict[str, str]) -> Answer:
        what, number = self._which(path)
        if what != "mask" or number is None:
            raise Refused(HTTPStatus.NOT_FOUND, "no such page")
        if self.headers.get("Content-Type") != "application/octet-stream":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/octet-stream")
        sides = {name: _whole(query, name) for name in ("left", "top", "width", "height")}
        whole = self._site.session.mask(number).shape
        if sides["top"] + sides["height"] > whole[0] or sides["left"] + sides["width"] > whole[1]:
            raise Refused(HTTPStatus.BAD_REQUEST, "expected a rectangle inside the image")
        labels = self._body(sides["height"], sides["width"])
        self._site.session.paint(number, sides["left"], sides["top"], labels)
        return _json({"saved": self._site.session.items[number].mask.name})

    def _which(self, path: str) -> tuple[str, int | None]:
        """The first word of a path, and the image that it ends in.

        Raises:
            Refused: no such image.
        """
        what, _, rest = path.partition("/")
        if not rest:
            return what, None
        if NUMBER.fullmatch(rest) is None or int(rest) >= len(self._site.session.items):
            raise Refused(HTTPStatus.NOT_FOUND, "no such image")
        return what, int(rest)

    def _body(self, height: int, width: int) -> np.ndarray:
        """The labels that were sent, if their number is what the query says.

        Raises:
            Refused: no length, another length, or fewer bytes than announced.
        """
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") or not NUMBER.fullmatch(length):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        if not 0 < height * width <= PIXELS or int(length) != height * width:
            raise Refused(
                HTTPStatus.BAD_REQUEST,
                f"expected width x height = {height * width} bytes, up to {PIXELS}, got {length}",
            )
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise Refused(HTTPStatus.BAD_REQUEST, f"expected {length} bytes, got {len(data)}")
        return np.frombuffer(data, np.uint8).reshape(height, width)


def _whole(query: dict[str, str], name: str) -> int:
    if NUMBER.fullmatch(text := query.get(name, "")) is None:
        raise Refused(HTTPStatus.BAD_REQUEST, f"{name}: expected a whole number")
    return int(text)


def _state(session: Session) -> dict[str, Any]:
    classes, labelled = session.classes, session.labelled()
    return {
        "images": [
            {"name": item.name, "labelled": there}
            for item, there in zip(session.items, labelled, strict=True)
        ],
        "classes": [
            {"name": name, "colour": classes.colour(index) if index else FIRST}
            for index, name in enumerate(classes.names)
        ],
        **_suggestions(session),
    }


def _suggestions(session: Session) -> dict[str, Any]:
    found = session.suggested()
    order, scored = found if found is not None else (None, 0)
    return {"suggested": order, "scored": scored, "of": len(session.items)}


def _predicted(found: Prediction | Waiting) -> Answer:
    if isinstance(found, Waiting):
        return _json(found._asdict())
    data = found.labels.numpy().tobytes() + found.uncertainty.numpy().tobytes()
    return _raw(data, tuple(found.labels.shape), found.step)


def _raw(data: bytes, shape: tuple[int, ...], step: int = 1) -> Answer:
    named = {"Height": shape[0], "Width": shape[1], "Step": step}
    size = {f"Polymode-{name}": str(value) for name, value in named.items()}
    return Answer(data, "application/octet-stream", size)


def _json(value: Any) -> Answer:
    return Answer(json.dumps(value).encode(), "application/json")


def _text(text: str) -> Answer:
    return Answer(f"{text}\n".encode(), "text/plain; charset=utf-8")
