"""One SAE from a hub: a real download over HTTP, from a server on this machine that speaks as the hub does."""

from __future__ import annotations

import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from neurosae.sae import registry

D, F = 6, 16
SPEC = "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82"
TOKEN = "hf_only-for-this-test"
SCRIPT = f"""
import experiments
from neurosae.sae.loading import load, site_of
import torch
sae = load({SPEC!r})
print(site_of(sae), sae.cfg.d_sae, float(sae.encode(torch.ones(1, {D})).sum()))
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers for files as the hub does; remembers what was asked, with which token."""

    files: ClassVar[dict[str, bytes]]
    asked: ClassVar[list[tuple[str, str, str | None]]]

    def do_GET(self) -> None:
        """Send a file with the headers that the hub's client needs, or 404."""
        self.asked.append((self.command, self.path, self.headers.get("Authorization")))
        content = self.files.get(self.path)
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hashlib.sha1(content or b"").hexdigest()}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if content and self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"W_enc": (D, F), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,)}
    made = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return made | {"threshold": np.full(F, 0.3, np.float32)}


@pytest.fixture
def hub(weights: dict[str, np.ndarray], tmp_path: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    """The release, with the SAE that is asked for and one that is not."""
    np.savez(tmp_path / "params.npz", **weights)
    release, _, sae_id = SPEC.partition("/")
    about = registry.releases()[release]
    content = (tmp_path / "params.npz").read_bytes()
    other = next(path for path in about.saes_map.values() if path != about.saes_map[sae_id])
    files = {f"/{about.repo_id}/resolve/main/{path}/params.npz": content for path in (about.saes_map[sae_id], other)}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Server", (Hub,), {"files": files, "asked": []}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_only_the_sae_asked_for_is_fetched_from_the_mirror_of_dotenv_and_kept(
    hub: http.server.ThreadingHTTPServer, weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    handler: type[Hub] = hub.RequestHandlerClass  # type: ignore[assignment]
    here = tmp_path / "here"
    here.mkdir()
    (here / ".env").write_text(f"HF_ENDPOINT=http://127.0.0.1:{hub.server_port}\nHF_TOKEN={TOKEN}\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    kept |= {"HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1", "PYTHONPATH": os.getcwd()}

    def load() -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=here, env=kept, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return done.stdout.split()

    site, width, total = load()
    pre = torch.ones(D).double().numpy() @ weights["W_enc"] + weights["b_enc"]
    assert (site, width) == ("blocks.12.hook_resid_post", str(F))
    assert float(total) == pytest.approx(pre[pre > 0.3].sum(), rel=1e-5)
    fetched = {path for command, path, _ in handler.asked if command == "GET" and "resolve" in path}
    assert len(fetched) == 1
    assert "average_l0_82" in fetched.pop()
    assert {token for _, path, token in handler.asked if "resolve" in path} == {f"Bearer {TOKEN}"}

    handler.asked.clear()
    assert load() == [site, width, total]  # from the cache
    assert not [path for command, path, _ in handler.asked if command == "GET" and "resolve" in path]
    assert not any(TOKEN.encode() in path.read_bytes() for path in tmp_path.glob("home/**/*") if path.is_file())
