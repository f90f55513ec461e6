"""Answers on disk, keyed by the whole request; safe for several processes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from neurosae.files import canonical_json, write_json


def request_key(request: dict[str, Any]) -> str:
    """SHA-256 of a whole request: another model, parameter, message, schema, prompt or server is another key.

    Examples
    --------
    >>> request_key({"model": "a", "max_tokens": 1}) == request_key({"max_tokens": 1, "model": "a"})
    True
    >>> request_key({"model": "a"}) == request_key({"model": "b"})
    False
    """
    return hashlib.sha256(canonical_json(request).encode()).hexdigest()


class AnswerCache:
    """One file per answer.

    A file is written beside its place and renamed, so that a reader sees a whole answer or none; two processes that
    answer the same request write the same place one after the other.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """Where the answer to a request lies."""
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> dict[str, Any] | None:
        """The stored answer; None where there is none or its file is damaged."""
        try:
            record = json.loads(self.path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) and record.get("key") == key else None

    def put(self, key: str, record: dict[str, Any]) -> None:
        """Store an answer."""
        write_json(self.path(key), {**record, "key": key})
