"""Corpora: one stream of texts out of files, folders or a Hugging Face dataset, in constant memory."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neurosae import norms, stimuli
from neurosae.errors import UserError, at_least
from neurosae.files import folder_digest, sha256_file
from neurosae.hub_access import setting

HUB = "hf:"
_ALLOWED = (
    "a .parquet, .jsonl, .jsonl.zst, .jsonl.gz or .txt file, a folder of them, or hf:NAME[:CONFIG][#SPLIT] for a "
    "Hugging Face dataset"
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'])")
_MIN_WORDS = 4


def read_texts(source: str | Path) -> Iterator[str]:
    """Yield the texts of a corpus, always in the same order.

    Parameters
    ----------
    source : str or Path
        One of

        - a ``.parquet`` file with a column `text`;
        - a ``.jsonl``, ``.jsonl.zst`` (as the Pile) or ``.jsonl.gz`` file: one object with a key `text` per line;
        - a ``.txt`` file in UTF-8, where blank lines separate texts;
        - a folder: every such file in it and in its folders, in the order of their paths. A file means the same alone
          and in a folder: a ``.txt`` without blank lines is one text. Hidden and other files are left out;
        - ``hf:NAME``, ``hf:NAME:CONFIG``, ``hf:NAME#SPLIT`` or ``hf:NAME:CONFIG#SPLIT``: a Hugging Face dataset with a
          column `text`, streamed; NAME may be a local folder in that format, SPLIT is ``train`` by default. Code that
          a dataset brings along is never run.

    Raises
    ------
    UserError
        No such corpus, another format, a file that is cut short, no column `text`, an entry that is no text or has
        half of a surrogate pair: the message names file and line.
    """
    if str(source).startswith(HUB):
        yield from _read_hub(str(source))
        return
    path = _existing(source)
    parts = _parts(path) if path.is_dir() else [path]
    for part in parts:
        reader = _reader(part)
        if reader is None:
            raise UserError(f"{part} has a format that is not known", allowed=_ALLOWED)
        with _readable(part):
            yield from reader(part)


def shipped_texts() -> list[str]:
    """Texts that ship with the library, each once: the calibration text, then every stimulus sentence.

    Examples
    --------
    >>> texts = shipped_texts()
    >>> len(texts) == len(set(texts)) > 500
    True
    """
    written = [text for each in stimuli.concepts() for text in each.table["text"]]
    return list(dict.fromkeys([*norms.calibration_texts(), *written]))


def texts_of(corpus: str | Path | None) -> Iterator[str]:
    """The texts of a corpus as `read_texts` yields them, or those that ship where none is named."""
    return read_texts(corpus) if corpus else iter(shipped_texts())


def first_texts(corpus: str | Path | None, texts: int) -> list[str]:
    """At most so many texts from the beginning of a corpus, or of those that ship where none is named.

    Raises
    ------
    UserError
        Fewer than one text asked for, a corpus without any, and see `read_texts`.

    Examples
    --------
    >>> len(first_texts(None, 7))
    7
    """
    at_least(1, texts=texts)
    found = list(itertools.islice(texts_of(corpus), texts))
    if not found:
        raise UserError(f"{corpus} holds no text", where="corpus")
    return found


def identity(source: str | Path) -> str:
    """What tells this corpus from another one: a hash of its content, or the name of a dataset on the hub.

    Notes
    -----
    Of folders, names, sizes and pieces of the files are hashed (`neurosae.files.folder_digest`). A dataset on the hub
    can change under its name; this is not noticed.

    Raises
    ------
    UserError
        No such corpus.
    """
    name = str(source)
    if name.startswith(HUB):
        name = name.removesuffix("#train")  # what is read without a split
    local = Path(_hub_parts(name)[0] if name.startswith(HUB) else name)
    if name.startswith(HUB):
        return f"{name} {folder_digest(local)}" if local.is_dir() else name
    path = _existing(source)
    return folder_digest(path) if path.is_dir() else sha256_file(path)


def _existing(source: str | Path) -> Path:
    path = Path(source)
    if not path.exists():
        raise UserError(f"There is no corpus {path}", allowed=_ALLOWED)
    return path


def _parts(folder: Path) -> list[Path]:
    """The corpus files below a folder, hidden ones left out."""
    below = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file() and _reader(path)]
    parts = [folder / path for path in below if not any(name.startswith(".") for name in path.parts)]
    if not parts:
        raise UserError(f"The folder {folder} holds no corpus", allowed=_ALLOWED)
    return parts


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the readers raise at a damaged file into a message."""
    try:
        yield
    except (OSError, ValueError) as error:  # pyarrow's and UTF-8's errors are among these
        raise UserError(f"This file cannot be read to its end: {error}", where=str(path)) from error


def _read_parquet(path: Path) -> Iterator[str]:
    table = pq.ParquetFile(path)
    if "text" not in table.schema_arrow.names:
        raise UserError(f"{path} has no column 'text'", allowed="a column named text")
    rows = itertools.count(1)
    for batch in table.iter_batches(batch_size=1024, columns=["text"]):
        for text in batch.column("text").to_pylist():
            yield _checked({"text": text}, f"{path}, row {next(rows)}")


def _read_jsonl(path: Path) -> Iterator[str]:
    with pa.input_stream(str(path), compression="detect") as stream:
        for number, line in enumerate(io.BufferedReader(stream), 1):
            if line.strip():
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):  # the latter where it is nested too deeply
                    entry = None
                yield _checked(entry, f"{path}:{number}")


def _read_txt(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as stream:
        for has_words, lines in itertools.groupby(stream, key=lambda line: bool(line.strip())):
            if has_words:
                yield "".join(lines).strip()


def _read_hub(source: str) -> Iterator[str]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError

    name, config, split = _hub_parts(source)
    try:
        # Datasets that are programs are refused by the library; it is never asked to trust them.
        rows = load_dataset(name, config, split=split, streaming=True, token=setting("HF_TOKEN"))
        for number, row in enumerate(rows, 1):
            yield _checked(row, f"{source}, row {number}")
    except (OSError, ValueError, RuntimeError, DatasetsError, HTTPError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"The dataset '{source}' cannot be read: {reason}",
            allowed="hf:NAME[:CONFIG][#SPLIT] of a dataset on the hub (with a network) or of a local folder",
        ) from error


def _hub_parts(source: str) -> tuple[str, str | None, str]:
    """Name, configuration and split.

    Examples
    --------
    >>> _hub_parts("hf:owner/name:en#validation")
    ('owner/name', 'en', 'validation')
    >>> _hub_parts("hf:name")
    ('name', None, 'train')
    """
    name, _, split = source.removeprefix(HUB).partition("#")
    name, _, config = name.partition(":")
    return name, config or None, split or "train"


def _checked(entry: Any, where: str) -> str:
    text = entry.get("text") if isinstance(entry, dict) else None
    if not isinstance(text, str):
        raise UserError("This entry has no 'text' that is a string", where=where)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"This text is no valid Unicode: {error}", where=where) from None
    return text


_READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".jsonl.zst": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".txt": _read_txt,
}


def _reader(path: Path) -> Callable[[Path], Iterator[str]] | None:
    return next((reader for suffix, reader in _READERS.items() if path.name.endswith(suffix)), None)


def sentences(text: str) -> list[str]:
    """Split a text at sentence ends; pieces under four words are dropped.

    Examples
    --------
    >>> sentences("The lamp went out again. Nobody in the room moved. No.")
    ['The lamp went out again.', 'Nobody in the room moved.']
    """
    return [part for part in _SENTENCE_END.split(text) if len(part.split()) >= _MIN_WORDS]
