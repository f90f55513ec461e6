from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from neurosae.errors import UserError, unknown_name
from neurosae.files import atomic_path, cache_folder, digest, folder_digest, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("killed")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for content in ("one", "two"):
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert [p.name for p in folder.iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_full_disk_is_told_in_one_sentence(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(UserError, match="No space left"), atomic_path(tmp_path / "b") as temporary:
        temporary.symlink_to(full)
        temporary.write_text("x" * 100_000)
    assert not (tmp_path / "b").exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not be written"), atomic_path(tmp_path / "c"):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def test_a_path_below_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="could not be written"), atomic_path(tmp_path / "file" / "d"):
        pass


def test_digest_depends_on_content_not_on_order() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROSAE_CACHE", str(tmp_path / "elsewhere"))
    assert cache_folder("x") == tmp_path / "elsewhere" / "x"
    assert cache_folder("x").is_dir()


def test_a_cache_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "file", {})
    monkeypatch.setenv("NEUROSAE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="NEUROSAE_CACHE"):
        cache_folder("x")


def test_errors_say_what_where_what_is_allowed_and_a_suggestion() -> None:
    text = str(unknown_name("selector", "aurocc", ["t", "auroc"], where="--selector"))
    assert text == "--selector: Unknown selector 'aurocc'. Allowed: auroc, t. Did you mean 'auroc'?"


def test_a_folder_digest_sees_other_content_of_the_same_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "model" / "weights.bin"
    path.parent.mkdir()
    path.write_bytes(rng.bytes(3_000_000))
    first = folder_digest(path.parent)
    assert folder_digest(path.parent) == first
    path.write_bytes(rng.bytes(3_000_000))
    assert folder_digest(path.parent) != first
