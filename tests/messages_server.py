"""A small Messages API on loopback, with faults on demand: what the judges' tests talk to through the real SDK."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test-0123456789abcdef"
MODELS = ("claude-haiku-5-5", "house-model")
# How an attempt can go wrong; "rejected" and "refusal" are the server's last word on a request.
TRANSIENT = ("429", "500", "529", "reset", "stall", "truncated")
MALFORMED = ("no-json-body", "not-json", "wrong-score", "score-as-text", "cut-short", "no-content")
FINAL = ("refusal", "rejected")

Plan = Callable[[str, int], str | None]


def never(text: str, attempt: int) -> str | None:
    """A plan without faults."""
    return None


def always(fault: str) -> Plan:
    """A plan with one fault for ever."""
    return lambda text, attempt: fault


def first(*faults: str) -> Plan:
    """A plan whose first attempts for each text go wrong in this way."""
    return lambda text, attempt: faults[attempt] if attempt < len(faults) else None


def seeded(seed: int, share: float, faults: tuple[str, ...]) -> Plan:
    """A plan where each attempt goes wrong with a given probability, as told by (seed, text, attempt) alone."""

    def plan(text: str, attempt: int) -> str | None:
        draw = random.Random(f"{seed}-{text}-{attempt}")
        return draw.choice(faults) if draw.random() < share else None

    return plan


def true_grade(user: str) -> int:
    """The grade that the server gives a user message."""
    return hashlib.sha256(user.encode()).digest()[0] % 4


@dataclass
class Seen:
    """What the server has seen."""

    arrivals: list[tuple[float, str, str | None]] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0


class MessagesServer(ThreadingHTTPServer):
    """Serves ``POST /v1/messages``.

    Parameters
    ----------
    plan : callable
        From the user message and the number of earlier attempts to a fault, or None.
    delay : float
        Seconds before each answer.
    retry_after : float
        Seconds that a 429 asks to wait.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, plan: Plan = never, delay: float = 0.0, retry_after: float = 0.05) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.plan, self.delay, self.retry_after = plan, delay, retry_after
        self.seen, self.lock, self.stopping = Seen(), threading.Lock(), threading.Event()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: MessagesServer

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def do_POST(self) -> None:
        """Answer, or go wrong as planned."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server, user = self.server, body["messages"][-1]["content"]
        with server.lock:
            attempt = server.seen.attempts[user]
            server.seen.attempts[user] += 1
            server.seen.in_flight += 1
            server.seen.most_in_flight = max(server.seen.most_in_flight, server.seen.in_flight)
            fault = server.plan(user, attempt)
            server.seen.arrivals.append((time.monotonic(), user, fault))
            server.seen.bodies.append(body)
        try:
            time.sleep(server.delay)
            self._respond(body, user, fault)
        finally:
            with server.lock:
                server.seen.in_flight -= 1

    def _respond(self, body: dict[str, Any], user: str, fault: str | None) -> None:
        key = self.headers.get("x-api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")
        if key != KEY:
            return self._error(401, "authentication_error", f"invalid key {key}")
        if body["model"] not in MODELS:
            return self._error(404, "not_found_error", f"model: {body['model']}")
        if fault in ("429", "500", "529"):
            kind = {"429": "rate_limit_error", "500": "api_error", "529": "overloaded_error"}[fault]
            return self._error(int(fault), kind, "try later")
        if fault == "rejected":
            return self._error(400, "invalid_request_error", "prompt is too long")
        if fault == "reset":
            return self._reset()
        if fault == "stall":
            self.server.stopping.wait(30)
            return self._reset()
        if fault == "no-json-body":
            return self._send(200, b'{"id": "msg_1", "type": "mess')
        payload = json.dumps(self._message(body, user, fault)).encode()
        if fault == "truncated":
            return self._send(200, payload[: len(payload) // 2], len(payload))
        self._send(200, payload)
        if fault is None or fault in FINAL:
            with self.server.lock:
                self.server.seen.answered[user] += 1

    def _message(self, body: dict[str, Any], user: str, fault: str | None) -> dict[str, Any]:
        grade = true_grade(user)
        right = json.dumps({"grade": grade}) if "output_config" in body else f"They share {grade}."
        if "PATTERN:" in body.get("system", "") and fault != "no-pattern":
            right += f"\nPATTERN: They share {grade}."
        text = {
            "not-json": "I would say two.",
            "wrong-score": '{"grade": 7}',
            "score-as-text": '{"grade": "2"}',
            "cut-short": right[:-1],
            "refusal": "",
            "key-said": f"It is {KEY}.",
            "key-for-a-grade": f"{'x' * 65}{KEY}",
        }.get(fault or "", right)
        stop = {"cut-short": "max_tokens", "refusal": "refusal"}.get(fault or "", "end_turn")
        message: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"]}
        message |= {"content": [{"type": "text", "text": text}], "stop_reason": stop, "stop_sequence": None}
        if fault == "no-content":
            del message["content"]
        return message | {"usage": {"input_tokens": 300, "output_tokens": 10}}

    def _error(self, status: int, kind: str, message: str) -> None:
        headers = {"retry-after": str(self.server.retry_after)} if status == 429 else {}
        body = {"type": "error", "error": {"type": kind, "message": message}}
        self._send(status, json.dumps(body).encode(), **headers)

    def _send(self, status: int, payload: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(payload) if length is None else length))
        self.end_headers()
        self.wfile.write(payload)
        self.wfile.flush()
        if length is not None:
            self._reset()

    def _reset(self) -> None:
        """Close the connection so that the client sees a reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


@contextmanager
def serving(server: MessagesServer) -> Iterator[MessagesServer]:
    """Run a server while the block lasts."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
