"""Settings of the Hugging Face hub: token and mirror, from the environment or ``.env``; neither is ever logged."""

from __future__ import annotations

import os
from pathlib import Path

NAMES = ("HF_TOKEN", "HF_ENDPOINT")


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
        for line in dotenv.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition("=")
            if key.removeprefix("export ").strip() == name:
                return value.strip().strip("\"'") or None
    return None


def use_dotenv() -> None:
    """Put the settings of ``.env`` into this process' environment, where every library of the hub looks for them.

    Commands call it first of all: the hub's library reads the mirror once, when it is imported.
    """
    for name in NAMES:
        if value := setting(name):
            os.environ[name] = value
