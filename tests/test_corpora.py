"""Every kind of corpus gives the same texts, lazily; whatever is wrong with one is told with file and line."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pandas as pd
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from neurosae.corpora import identity, read_texts, sentences
from neurosae.errors import UserError

KNOWN = ["One text here.", "Another, with ünïcode.", "And a third."]


def lines(texts: list[str]) -> bytes:
    """Texts as JSON lines."""
    return "".join(json.dumps({"text": text, "meta": {"n": 1}}, ensure_ascii=False) + "\n" for text in texts).encode()


def write_zst(path: Path, content: bytes) -> None:
    """Compressed by the reference implementation."""
    path.write_bytes(zstandard.compress(content))


WRITERS: dict[str, Callable[[Path, list[str]], object]] = {
    ".parquet": lambda path, texts: pd.DataFrame({"other": 1, "text": texts}).to_parquet(path),
    ".jsonl": lambda path, texts: path.write_bytes(lines(texts)),
    ".jsonl.zst": lambda path, texts: write_zst(path, lines(texts)),
    ".jsonl.gz": lambda path, texts: path.write_bytes(gzip.compress(lines(texts))),
    ".txt": lambda path, texts: path.write_text("\n\n".join(texts), encoding="utf-8"),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_corpora_are_read_alike(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c{suffix}"
    WRITERS[suffix](path, KNOWN)
    assert list(read_texts(path)) == list(read_texts(str(path))) == KNOWN
    assert list(read_texts(tmp_path)) == KNOWN


def test_all_frames_of_a_compressed_file_are_read(tmp_path: Path) -> None:
    """Parallel compressors write several."""
    frame = zstandard.compress(lines(KNOWN))
    (tmp_path / "c.jsonl.zst").write_bytes(frame + frame)
    assert list(read_texts(tmp_path)) == KNOWN * 2


@given(st.lists(st.text()))
def test_any_text_survives_json_lines(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """Line separators of Unicode, escapes and empty texts too: numbers of texts must not shift."""
    path = tmp_path_factory.mktemp("any") / "c.jsonl.zst"
    write_zst(path, lines(texts))
    assert list(read_texts(path)) == texts


def test_plain_text_is_split_at_blank_lines_whatever_they_look_like(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_bytes("\ufeff\r\nFirst,\r\ntwo lines.\r\n \t\r\n\r\nSecond.\n\n\n".encode())
    assert list(read_texts(path)) == ["First,\ntwo lines.", "Second."]
    path.write_text("")
    assert list(read_texts(path)) == []


def test_a_folder_is_its_files_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/1.txt", "a.txt", "c/d/e.jsonl", ".hidden/x.txt", "b/.x.txt", "notes.md", "data.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"text": name}) if name.endswith("jsonl") else name)
    assert list(read_texts(tmp_path)) == ["a.txt", "b/1.txt", "b/2.txt", "c/d/e.jsonl"]


def test_a_large_file_is_not_read_before_it_is_needed(tmp_path: Path) -> None:
    """The first texts come out although the end is missing, which is told when it is reached."""
    path = tmp_path / "cut.jsonl.zst"
    write_zst(path, lines([f"{i} {'x' * 50} {hash(str(i))}" for i in range(50_000)]))
    path.write_bytes(path.read_bytes()[:-100])
    texts = read_texts(path)
    assert [text.split()[0] for text in itertools.islice(texts, 3)] == ["0", "1", "2"]
    with pytest.raises(UserError, match=r"cut\.jsonl\.zst: .*to its end"):
        list(texts)


BAD: dict[str, tuple[str, bytes, str]] = {
    "no text key": ("a.jsonl", b'{"text": "fine"}\n{"no": 1}\n', r"a\.jsonl:2"),
    "not JSON": ("a.jsonl", b'{"text": "fine"}\n\n{"tex', r"a\.jsonl:3"),
    "null": ("a.jsonl", b'{"text": null}\n', r"a\.jsonl:1"),
    "a list": ("a.jsonl", b"[1]\n", r"a\.jsonl:1"),
    "half of a surrogate pair": (
        "a.jsonl",
        b'{"text": "fine"}\n{"text": "broken \\ud83d"}\n',
        r"a\.jsonl:2: .*Unicode",
    ),
    "half of one, encoded": ("a.jsonl", b'{"text": "broken \xed\xa0\xbd"}\n', r"a\.jsonl:1: .*Unicode"),
    "nested without end": ("a.jsonl", b'{"text": "fine"}\n' + b"[" * 100_000 + b"\n", r"a\.jsonl:2"),
    "wrong encoding": ("a.jsonl", b'{"text": "fine"}\n{"text": "\xff"}\n', r"a\.jsonl:2"),
    "text in latin-1": ("a.txt", b"caf\xe9", r"a\.txt: .*utf-8"),
    "not compressed": ("a.jsonl.zst", b'{"text": "fine"}\n', r"a\.jsonl\.zst: .*read"),
    "no Parquet": ("a.parquet", b"PAR1 and then nothing", r"a\.parquet: .*read"),
    "empty Parquet": ("a.parquet", b"", r"a\.parquet: .*read"),
    "another format": ("a.csv", b"text", "format that is not known"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_told(tmp_path: Path, case: str) -> None:
    name, content, message = BAD[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_texts(tmp_path / name))


def test_bad_columns_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"content": ["x"]}).to_parquet(path)
    with pytest.raises(UserError, match="no column 'text'"):
        list(read_texts(path))
    for texts, row in ((["x"] * 1500 + [None], 1501), ([7], 1)):
        pd.DataFrame({"text": texts}).to_parquet(path)
        with pytest.raises(UserError, match=rf"a\.parquet, row {row}:"):
            list(read_texts(path))


def test_nothing_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no corpus"):
        list(read_texts(tmp_path / "nothing.txt"))
    with pytest.raises(UserError, match="no corpus"):
        identity(tmp_path / "nothing.txt")
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(UserError, match="holds no corpus"):
        list(read_texts(tmp_path))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".jsonl.zst"])
def test_a_dataset_is_streamed(tmp_path: Path, suffix: str) -> None:
    WRITERS[suffix](tmp_path / f"train{suffix}", KNOWN)
    WRITERS[suffix](tmp_path / f"test{suffix}", KNOWN[:1])
    assert list(read_texts(f"hf:{tmp_path}")) == KNOWN
    assert list(read_texts(Path(f"hf:{tmp_path}#test"))) == KNOWN[:1]
    assert list(read_texts(f"hf:{tmp_path}:default#train")) == KNOWN
    with pytest.raises(UserError, match=r"nowhere.*train"):
        list(read_texts(f"hf:{tmp_path}#nowhere"))
    with pytest.raises(UserError, match="german"):
        list(read_texts(f"hf:{tmp_path}:german"))


def test_a_dataset_without_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"content": "x"}\n')
    with pytest.raises(UserError, match=r"row 1: .*'text'"):
        list(read_texts(f"hf:{tmp_path}"))


def test_code_of_a_dataset_is_never_run(tmp_path: Path) -> None:
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "program.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="cannot be read"):
        list(read_texts(f"hf:{folder}"))
    assert not (tmp_path / "ran").exists()


def test_no_hub_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"hf:nobody/nothing.*cannot be read"):
        list(read_texts("hf:nobody/nothing"))


def test_identity_follows_the_content(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        folder.mkdir()
        (folder / "train.jsonl").write_bytes(lines(KNOWN))
    assert identity(a) == identity(b)
    assert identity(a / "train.jsonl") == identity(str(b / "train.jsonl"))
    kinds = [identity(source) for source in (a, a / "train.jsonl", f"hf:{a}", f"hf:{a}#test", "hf:a/name")]
    assert len(set(kinds)) == len(kinds)
    assert identity("hf:a/name#train") == identity("hf:a/name")
    before = identity(f"hf:{b}")
    (b / "train.jsonl").write_bytes(lines(KNOWN[::-1]))
    assert identity(a) != identity(b)
    assert identity(f"hf:{b}") != before


def test_short_pieces_are_no_sentences() -> None:
    assert sentences("Yes. He went home at noon! Why?") == ["He went home at noon!"]
