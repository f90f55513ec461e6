"""Settings of the Hugging Face hub: token and mirror, from the environment or ``.env``; neither is ever logged."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

NAMES = ("HF_TOKEN", "HF_ENDPOINT")
_COMMENT = re.compile(r"\s#.*$")


def setting(name: str) -> str | None:
    """A setting from the environment, else from a ``.env`` file in the current folder.

    Parameters
    ----------
    name : {"HF_TOKEN", "HF_ENDPOINT"}
        The access token; the address of a mirror.
    """
    if value := os.environ.get(name):
        return value
    dotenv = Path(".env")
    if dotenv.is_file():
        for line in dotenv.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition("=")
            if key.removeprefix("export ").strip() == name:
                return _COMMENT.sub("", value).strip().strip("\"'") or None
    return None


def use_dotenv() -> None:
    """Put the settings of ``.env`` into this process' environment, where every library of the hub looks for them.

    Commands call it first of all: the hub's library reads the mirror once, when it is imported. Scripts that want the
    mirror of ``.env`` do the same before other imports.
    """
    for name in NAMES:
        if name not in os.environ and (value := setting(name)):
            os.environ[name] = value
            if name == "HF_ENDPOINT":  # a token may be sent there: nobody should be surprised by it
                print(f"Hub mirror from .env: {value}", file=sys.stderr)
