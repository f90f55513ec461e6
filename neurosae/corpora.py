"""Corpora: one stream of texts out of Parquet, JSONL or plain text, in constant memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from neurosae.errors import UserError

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'])")
_MIN_WORDS = 4


def read_texts(path: Path) -> Iterator[str]:
    """Yield the texts of a corpus file, or of all corpus files of a folder in name order.

    Parameters
    ----------
    path : Path
        ``.parquet`` or ``.jsonl`` with a column `text`; ``.txt`` with texts separated by blank lines.

    Raises
    ------
    UserError
        A missing file, another format, no column `text`, or a line that is not JSON.
    """
    if path.is_dir():
        for part in sorted(p for p in path.iterdir() if p.suffix in (".parquet", ".jsonl", ".txt")):
            yield from read_texts(part)
        return
    if not path.is_file():
        raise UserError(f"There is no corpus {path}", allowed="a .parquet, .jsonl or .txt file, or a folder of them")
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
    elif path.suffix == ".jsonl":
        yield from _read_jsonl(path)
    elif path.suffix == ".txt":
        yield from (part.strip() for part in path.read_text(encoding="utf-8").split("\n\n") if part.strip())
    else:
        raise UserError(f"{path} has a format that is not known", allowed=".parquet, .jsonl, .txt")


def _read_parquet(path: Path) -> Iterator[str]:
    table = pq.ParquetFile(path)
    if "text" not in table.schema_arrow.names:
        raise UserError(f"{path} has no column 'text'", allowed="a column named text")
    for batch in table.iter_batches(batch_size=1024, columns=["text"]):
        yield from batch.column("text").to_pylist()


def _read_jsonl(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield json.loads(line)["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError("This line is no JSON object with a key 'text'", where=f"{path}:{number}") from error


def sentences(text: str) -> list[str]:
    """Split a text at sentence ends; pieces under four words are dropped.

    Examples
    --------
    >>> sentences("The lamp went out again. Nobody in the room moved. No.")
    ['The lamp went out again.', 'Nobody in the room moved.']
    """
    return [part for part in _SENTENCE_END.split(text) if len(part.split()) >= _MIN_WORDS]
