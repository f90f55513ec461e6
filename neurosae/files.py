"""Files: atomic writes, the cache folder and hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurosae.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def cache_folder(*parts: str) -> Path:
    """Folder of re-creatable files: ``$NEUROSAE_CACHE`` or ``neurosae`` in the user's cache folder.

    Everything below it can be deleted at any time. The folder is created.

    Examples
    --------
    >>> cache_folder("models").name
    'models'
    """
    root = os.environ.get("NEUROSAE_CACHE")
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "neurosae"
    folder = base.joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The cache folder {folder} cannot be created ({error.strerror})",
            where="NEUROSAE_CACHE",
            suggestion="Point NEUROSAE_CACHE to a folder that can be written",
        ) from error
    return folder


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes `path`'s place only if the block succeeds.

    Works for files and folders; a folder that is already there is moved aside first. A kill leaves the old state, the
    new one or (for a folder, between two renames) none, never half of one, and at most an entry whose name starts with
    a dot.
    """
    holder: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        temporary = holder / path.name
        yield temporary
        if temporary.is_dir() and path.exists():
            path.rename(holder / "replaced")
        try:
            temporary.replace(path)
        except OSError:
            if (holder / "replaced").exists():
                (holder / "replaced").rename(path)
            raise
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror or error})",
            suggestion="Free some disk space or choose another folder, then run the same command again",
        ) from error
    finally:
        if holder is not None:
            shutil.rmtree(holder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write text atomically (UTF-8)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_table(folder: Path, name: str, table: pd.DataFrame) -> None:
    """A table as CSV, for people, and as Parquet, with its types; each file appears whole or not at all."""
    with atomic_path(folder / f"{name}.csv") as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
    with atomic_path(folder / f"{name}.parquet") as temporary:
        table.to_parquet(temporary, index=False)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys: equal values give equal text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1, default=str)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, canonical_json(value) + "\n")


def digest(value: Any, length: int = 12) -> str:
    """Short hexadecimal hash of a JSON-able value.

    Examples
    --------
    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_digest(folder: Path, samples: int = 16, length: int = 1 << 16) -> str:
    """Hash of the files of a folder: names, sizes and evenly spaced pieces, so that gigabytes take no time.

    Other weights of the same size differ nearly everywhere, hence in the pieces.
    """
    summary = hashlib.sha256()
    for name, size in sizes(folder).items():
        summary.update(f"{name}:{size}".encode())
        with (folder / name).open("rb") as stream:
            for i in range(samples):
                stream.seek(i * max(0, size - length) // (samples - 1))
                summary.update(stream.read(length))
    return summary.hexdigest()[:16]


def sizes(folder: Path) -> dict[str, int]:
    """File sizes below a folder, by relative name: the cheap check against files cut short."""
    return {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
