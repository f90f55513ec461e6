"""Shards hold the clean tokens of a corpus and say where each is from; a capture that was killed ends as any other."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from experiments import capture
from neurosae.errors import UserError
from neurosae.forward import at_site
from neurosae.models import LanguageModel
from neurosae.norms import LIMIT, median_norms
from neurosae.sae import activations, training_source
from neurosae.sae.activations import ContextPlan, capture_shards, capture_sites, clean_activations
from neurosae.sae.shards import ShardReader, export_npy, open_shards, read_index, shards_digest
from neurosae.sae.train_sae import train_sae
from neurosae.sites import Site
from tests.conftest import TEXTS

SITE = Site(1)
PLAN = ContextPlan(context=12, sentences_every=3)
CORPUS = [f"{text} And number {i} follows here, in a second sentence." for i in range(40) for text in TEXTS]
ASKED: dict[str, Any] = {"n_tokens": 1500, "plan": PLAN, "shard_tokens": 400}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def captured(language_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several shards of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("captured")
    capture_shards(language_model, CORPUS, SITE, folder, **ASKED)
    assert len(open_shards(folder)) >= 3
    return folder


def test_rows_are_those_of_a_naive_loop(language_model: LanguageModel, captured: Path) -> None:
    """One context at a time through transformers' own hidden states: same activations, tokens and places."""
    index = read_index(captured)
    rows = ShardReader(captured, 1, 0).rows(np.arange(len(index)))
    found = {tuple(key): row for key, row in zip(index[["text", "context", "position"]].to_numpy(), rows, strict=True)}
    assert len(found) == len(index)  # no place twice
    limit = LIMIT * median_norms(language_model, [SITE])[SITE]
    checked = range(0, index["text"].max() + 1, 7)  # both cut and whole texts
    expected = 0
    for text in checked:
        of_text = [context for of, context in PLAN.contexts(CORPUS) if of == text]
        for number, context in enumerate(of_text):
            ids = [language_model.sink_token, *language_model.tokenizer(context).input_ids][: PLAN.context]
            with torch.inference_mode():
                states = language_model.base(torch.tensor([ids]), output_hidden_states=True).hidden_states
            for position, state in enumerate(states[SITE.hidden_state][0][1:], 1):
                if state.norm() <= limit:
                    expected += 1
                    np.testing.assert_allclose(found[text, number, position], state, rtol=0.02, atol=0.02)
    assert expected == index["text"].isin(checked).sum() > 100
    ids = language_model.token_ids([context for _, context in PLAN.contexts(CORPUS[:1])], PLAN.context)
    first = index[index["text"] == 0].sort_values(["context", "position"])
    assert first["token_id"].tolist() == [token for row in ids for token in row[1:]]


def test_the_index_can_be_read_by_others(captured: Path) -> None:
    index = read_index(captured)
    parts = [pd.read_parquet(path) for path in sorted(captured.glob("part*.parquet"))]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), index)
    assert set(index.dtypes) == {np.dtype(np.int32)}
    for number, shard in enumerate(open_shards(captured)):
        of_shard = index[index["shard"] == number]
        assert of_shard["row"].tolist() == list(range(len(shard.acts_TD)))
        assert of_shard["text"].max() <= shard.last_text
    texts = index.groupby("text")["shard"].nunique()
    assert (texts == 1).all()  # a shard covers whole texts


def test_numbers_of_texts_are_those_of_the_corpus_behind_skipped_ones(
    language_model: LanguageModel, tmp_path: Path
) -> None:
    """Where a capture skips texts (those held out), the index still leads to the text in the corpus."""
    asked = ASKED | {"n_tokens": 600, "first_text": 5}
    capture_shards(language_model, itertools.islice(CORPUS, 5, None), SITE, tmp_path, **asked)
    index = read_index(tmp_path)
    assert index["text"].min() == 5
    assert set(index.dtypes) == {np.dtype(np.int32)}
    whole = index[(index["text"] - 5) % PLAN.sentences_every != 0]
    for number, rows in whole.groupby("text"):
        assert set(rows["token_id"]) <= set(language_model.token_ids([CORPUS[number]])[0])
        assert rows["position"].max() == PLAN.context - 1 or len(language_model.token_ids([CORPUS[number]])[0]) < 12
    with pytest.raises(UserError, match="another first_text"):
        capture_shards(language_model, CORPUS, SITE, tmp_path, **ASKED | {"n_tokens": 900})
    # A folder of an earlier version says nothing: it counts from 0, until a capture that knows goes on with it.
    record = json.loads((tmp_path / "shards.json").read_text())
    del record["first_text"]
    (tmp_path / "shards.json").write_text(json.dumps(record))
    assert read_index(tmp_path)["text"].min() == 0
    capture_shards(language_model, itertools.islice(CORPUS, 5, None), SITE, tmp_path, **asked)
    pd.testing.assert_frame_equal(read_index(tmp_path), index)


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


def test_training_records_how_many_texts_it_held_out(
    corpus: Path, language_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def keep(*_: object, **given: object) -> None:
        asked.update(given)
        raise Killed

    monkeypatch.setattr(training_source, "capture_shards", keep)
    monkeypatch.setattr(training_source.models, "load", lambda *_, **__: language_model)
    with pytest.raises(Killed):
        train_sae(corpus, out=tmp_path / "out", held_out=7)
    assert asked["first_text"] == 7


@pytest.mark.parametrize("at", [3, 70, 130])
def test_a_resumed_capture_equals_an_uninterrupted_one(
    language_model: LanguageModel, captured: Path, tmp_path: Path, at: int
) -> None:
    def cut() -> Iterator[str]:
        yield from CORPUS[:at]
        raise Killed

    with pytest.raises(Killed):
        capture_shards(language_model, cut(), SITE, tmp_path, **ASKED)
    assert len(list(tmp_path.glob("part*.safetensors"))) < len(open_shards(captured))
    capture_shards(language_model, iter(CORPUS), SITE, tmp_path, **ASKED)
    assert contents(tmp_path) == contents(captured)


def test_a_kill_between_the_files_of_a_shard_leaves_no_trace(
    language_model: LanguageModel, tmp_path: Path, captured: Path
) -> None:
    """The index may be there without its shard, and one site may be ahead of another."""
    folders = {SITE: tmp_path / "a", Site(0): tmp_path / "b"}
    capture_sites(language_model, CORPUS, folders, **ASKED)
    before = contents(tmp_path)
    last = max(folders[SITE].glob("part*.safetensors")).name
    (folders[SITE] / last).unlink()
    capture_sites(language_model, CORPUS, folders, **ASKED)
    assert contents(tmp_path) == before
    assert (before[f"a/{last}"]) == (captured / last).read_bytes()  # no outliers here: as if captured alone


def test_more_tokens_are_added_to_what_is_there(language_model: LanguageModel, tmp_path: Path) -> None:
    capture_shards(language_model, CORPUS, SITE, tmp_path, n_tokens=300, plan=PLAN, shard_tokens=400)
    before, index = contents(tmp_path), read_index(tmp_path)
    capture_shards(language_model, CORPUS, SITE, tmp_path, n_tokens=1200, plan=PLAN, shard_tokens=400)
    after = contents(tmp_path)
    assert all(after[name] == before[name] for name in before if name.startswith("part"))
    longer = read_index(tmp_path)
    assert len(longer) >= 1200
    assert not longer.duplicated(["text", "context", "position"]).any()
    assert longer["text"].iloc[len(index)] > index["text"].max()


def test_a_token_is_kept_if_it_is_clean_at_every_site(
    language_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit that half of the tokens exceed, the rows of two sites are those that both leave."""
    monkeypatch.setattr(activations, "LIMIT", 1.0)
    sites, kept = (Site(0), Site(2)), {}
    asked: dict[str, Any] = {"n_tokens": 50, "plan": PLAN}
    for site in sites:
        capture_shards(language_model, CORPUS[:20], site, tmp_path / "alone" / str(site), **asked)
        kept[site] = read_index(tmp_path / "alone" / str(site))[["text", "context", "position"]]
    folders = {site: tmp_path / "both" / str(site) for site in sites}
    capture_sites(language_model, CORPUS[:20], folders, **asked)
    first, second = (read_index(folders[site]) for site in sites)
    pd.testing.assert_frame_equal(first, second)
    expected = {*map(tuple, kept[sites[0]].to_numpy())} & {*map(tuple, kept[sites[1]].to_numpy())}
    assert {*map(tuple, first[["text", "context", "position"]].to_numpy())} == expected
    assert len(expected) < min(map(len, kept.values()))


def test_clean_activations_leave_out_sink_and_padding(language_model: LanguageModel) -> None:
    parts = list(clean_activations(language_model, TEXTS, Site(15), context=64, tokens_per_batch=60))
    n_text = sum(len(language_model.tokenizer(text).input_ids) for text in TEXTS)
    assert sum(len(acts) + dropped for acts, dropped in parts) == n_text
    assert torch.cat([acts for acts, _ in parts]).norm(dim=-1).max() < 2000


def test_activations_that_are_not_finite_stop_the_capture(language_model: LanguageModel, tmp_path: Path) -> None:
    """Dropped as outliers they would go unnoticed, up to an empty capture."""
    with (
        at_site(
            language_model, Site(0), lambda x: torch.where(torch.arange(x.shape[1])[None, :, None] == 2, torch.inf, x)
        ),
        pytest.raises(UserError, match=r"blocks\.1\.hook_resid_post that are not finite"),
    ):
        capture_shards(language_model, CORPUS[:4], SITE, tmp_path, **ASKED)


def test_a_corpus_that_ends_early_keeps_what_it_gave(language_model: LanguageModel, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(UserError, match=r"gave [1-9]"):
            capture_shards(language_model, iter(TEXTS), SITE, tmp_path, n_tokens=10_000)
        assert ShardReader(tmp_path, 1, 0).n == len(read_index(tmp_path)) > 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site": Site(2)}, "another site"),
        ({"plan": ContextPlan(13, 3)}, "another context"),
        ({"plan": ContextPlan(12, 0)}, "another sentences_every"),
        ({"plan": ContextPlan(1, 3)}, "context: "),
        ({"plan": ContextPlan(10**9, 3)}, "context: "),
        ({"n_tokens": 0}, "tokens: 0"),
        ({"shard_tokens": 0}, "shard_tokens: 0"),
        ({"site": Site(99)}, "no block 99"),
    ],
)
def test_what_cannot_be_captured_is_refused(
    language_model: LanguageModel, captured: Path, change: dict[str, object], message: str
) -> None:
    before = contents(captured)
    asked = {"texts": CORPUS, "site": SITE, "folder": captured, **ASKED, **change}
    with pytest.raises(UserError, match=message):
        capture_shards(language_model, **asked)
    assert contents(captured) == before


@given(st.lists(st.sampled_from(["", "Two words.", "One two three four. Five six seven eight!"])), st.integers(0, 9))
def test_contexts_can_be_taken_up_at_any_text(texts: list[str], skip: int) -> None:
    plan = ContextPlan(sentences_every=2)
    whole = list(plan.contexts(texts))
    assert list(plan.contexts(texts, skip)) == [item for item in whole if item[0] >= skip]
    chunks = list(activations._chunks(iter(whole), 1))
    assert list(itertools.chain.from_iterable(chunks)) == whole
    assert all(a[-1][0] < b[0][0] for a, b in itertools.pairwise(chunks))  # whole texts


def test_ever_so_many_chunks_can_be_read() -> None:
    contexts = ((number, "") for number in range(1_000_000))
    assert sum(map(len, activations._chunks(contexts, 1))) == 1_000_000


def write_shards(folder: Path, parts: list[torch.Tensor]) -> torch.Tensor:
    """Shards as older captures left them: without an index and a record."""
    for number, acts in enumerate(parts):
        save_file({"acts": acts, "last_row": torch.tensor(number)}, folder / f"part{number:03d}.safetensors")
    return torch.cat(parts)


@pytest.fixture
def acts_TD() -> torch.Tensor:
    return torch.randn(700, 8, generator=torch.Generator().manual_seed(0)).mul(50).bfloat16()


def test_batches_are_every_row_once_per_epoch_in_a_seeded_order(tmp_path: Path, acts_TD: torch.Tensor) -> None:
    write_shards(tmp_path, [*acts_TD.split(300)])
    reader = ShardReader(tmp_path, 70, seed=3)
    epochs = [torch.cat(list(itertools.islice(reader, reader.steps_per_epoch))) for _ in range(2)]
    for epoch in epochs:
        assert sorted(map(tuple, epoch.tolist())) == sorted(map(tuple, acts_TD.float().tolist()))
    assert not torch.equal(*epochs)
    again = ShardReader(tmp_path, 70, seed=3)
    again.step = 13
    assert torch.equal(next(again), epochs[1][210:280])


def test_shards_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    whole = write_shards(tmp_path, list(torch.arange(1002, dtype=torch.float32)[:, None].split(1)))
    assert torch.equal(ShardReader(tmp_path, 1, 0).rows(np.arange(1002)), whole)


@pytest.mark.parametrize(("dtype", "block"), [("float32", 65_536), ("float32", 7), ("float16", 64)])
def test_the_numpy_file_holds_the_rows_of_the_reader(
    tmp_path: Path, acts_TD: torch.Tensor, dtype: str, block: int
) -> None:
    whole = write_shards(tmp_path, [*acts_TD.split(300)])
    array = np.load(export_npy(tmp_path, dtype, block), mmap_mode="r")
    assert (array.dtype, array.shape) == (np.dtype(dtype), (700, 8))
    np.testing.assert_array_equal(array, whole.float().numpy().astype(dtype))


def test_what_float16_cannot_hold_is_told(tmp_path: Path, acts_TD: torch.Tensor) -> None:
    acts_TD[500, 3] = 70_000
    write_shards(tmp_path, [*acts_TD.split(300)])
    with pytest.raises(UserError, match=r"part001\.safetensors .*too large for float16"):
        export_npy(tmp_path, "float16")
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith("part")]
    assert np.load(export_npy(tmp_path))[500, 3] == float(acts_TD[500, 3])


def test_the_digest_is_of_the_activations_alone(tmp_path: Path, acts_TD: torch.Tensor) -> None:
    write_shards(tmp_path, [*acts_TD.split(300)])
    before = shards_digest(tmp_path)
    export_npy(tmp_path)
    (tmp_path / "shards.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("x")
    assert shards_digest(tmp_path) == before
    found = {before}
    for parts in (acts_TD.split(350), (acts_TD * 1.5).split(300), acts_TD[:600].split(300), acts_TD.half().split(300)):
        for path in tmp_path.glob("part*"):
            path.unlink()
        write_shards(tmp_path, [*parts])
        found.add(shards_digest(tmp_path))
    assert len(found) == 5
    assert shards_digest(tmp_path, 3) != shards_digest(tmp_path, 300)
    write_shards(tmp_path, [acts_TD[:2], acts_TD[2:]])
    (tmp_path / "part002.safetensors").unlink()
    assert shards_digest(tmp_path) not in found


def damage(folder: Path, how: str) -> None:
    path, other = folder / "part001.safetensors", folder / "part000.safetensors"
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "foreign":
        save_file({"weight": torch.zeros(3)}, path)
    elif how == "integers":
        save_file({"acts": torch.zeros(3, 8, dtype=torch.int32), "last_row": torch.tensor(9)}, path)
    elif how == "width":
        save_file({"acts": torch.zeros(3, 9), "last_row": torch.tensor(9)}, path)
    elif how == "gap":
        path.rename(folder / "part003.safetensors")
    elif how == "name":
        path.rename(folder / "part-b.safetensors")
    elif how == "last missing":
        (folder / "shards.json").write_text(json.dumps({"tokens": 700}))
        path.unlink()
    elif how == "record":
        (folder / "shards.json").write_text('{"tok')
    elif how == "nothing":
        other.unlink()
        path.unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", r"part001\.safetensors is no activation shard"),
        ("empty", r"part001\.safetensors is no activation shard"),
        ("foreign", r"part001\.safetensors is no activation shard"),
        ("integers", r"part001\.safetensors is no activation shard: it holds torch\.int32"),
        ("width", r"part001\.safetensors has activations of width 9, .* 8"),
        ("gap", r"part001\.safetensors is missing, but part003"),
        ("name", r"part001\.safetensors is missing, but part-b"),
        ("last missing", "was to hold 700 tokens and has 350"),
        ("record", r"shards\.json is damaged"),
        ("nothing", "no activation shards"),
    ],
)
def test_damaged_folders_are_refused_by_name(tmp_path: Path, acts_TD: torch.Tensor, how: str, message: str) -> None:
    write_shards(tmp_path, [*acts_TD.split(350)])
    damage(tmp_path, how)
    with pytest.raises(UserError, match=message):
        ShardReader(tmp_path, 10, 0)


def test_nothing_goes_on_from_a_damaged_shard(language_model: LanguageModel, captured: Path, tmp_path: Path) -> None:
    for name, content in contents(captured).items():
        (tmp_path / name).write_bytes(content)
    damage(tmp_path, "cut")
    asked = ASKED | {"n_tokens": 2000}
    with pytest.raises(UserError, match=r"part001\.safetensors is no activation shard.*Delete it"):
        capture_shards(language_model, CORPUS, SITE, tmp_path, **asked)
    for path in [*tmp_path.glob("part00[1-9].safetensors")]:
        path.unlink()
    capture_shards(language_model, CORPUS, SITE, tmp_path, **ASKED)
    assert contents(tmp_path) == contents(captured)


def test_values_that_are_not_finite_are_told_with_their_shard(tmp_path: Path, acts_TD: torch.Tensor) -> None:
    acts_TD[400, 0] = torch.nan
    write_shards(tmp_path, [*acts_TD.split(350)])
    reader = ShardReader(tmp_path, 10, 0)
    assert torch.isfinite(reader.rows(np.arange(350))).all()
    with pytest.raises(UserError, match=r"part001\.safetensors has values that are not finite"):
        reader.rows(np.array([3, 400]))
    with pytest.raises(UserError, match=r"part001\.safetensors has values that are not finite"):
        export_npy(tmp_path)


def test_a_wrong_index_is_refused(captured: Path, tmp_path: Path, acts_TD: torch.Tensor) -> None:
    write_shards(tmp_path, [acts_TD])
    path = tmp_path / "part000.parquet"
    with pytest.raises(UserError, match=r"has no index part000\.parquet"):
        read_index(tmp_path)
    path.write_bytes((captured / path.name).read_bytes())
    with pytest.raises(UserError, match=r"part000\.parquet has .* rows, its shard 700"):
        read_index(tmp_path)
    for bad in (lambda: path.write_bytes(b"PAR1"), lambda: pd.DataFrame({"row": [1]}).to_parquet(path)):
        bad()
        with pytest.raises(UserError, match=r"part000\.parquet is no index"):
            read_index(tmp_path)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in CORPUS))
    return path


def asked_of_the_command(corpus: Path, out: Path) -> list[str]:
    """The request of `ASKED`, in float32 as the fixture."""
    site = ["--corpus", str(corpus), "--site", "1", "--out", str(out)]
    plan = ["--context", "12", "--sentences-every", "3", "--shard-tokens", "400", "--tokens", "1500"]
    return [*site, *plan, "--dtype", "float32"]


def test_the_command_captures_once_and_refuses_another_request(
    corpus: Path, captured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    request = asked_of_the_command(corpus, out)
    assert capture.main(request) == 0
    made = contents(out)
    assert all(made[name] == content for name, content in contents(captured).items() if name != "shards.json")
    monkeypatch.setattr(capture.shared, "load_model", lambda _options: pytest.fail("there was nothing left to do"))
    assert capture.main([*request, "--npy", "float16"]) == 0
    array = np.load(out / "activations.npy")
    np.testing.assert_allclose(array, ShardReader(out, 1, 0).rows(np.arange(len(array))), rtol=1e-6, atol=1e-6)
    changes = {"site": ["--site", "2"], "context": ["--context", "13"], "dtype": ["--dtype", "bfloat16"]}
    changes |= {"model": ["--model", "other"], "sentences_every": ["--sentences-every", "0"]}
    for name, change in changes.items():
        capsys.readouterr()
        assert capture.main([*request, "--tokens", "9000", *change]) == 2
        assert f"begun with another {name}" in capsys.readouterr().err
    with corpus.open("a") as stream:
        stream.write('{"text": "One more."}\n')
    assert capture.main(request) == 2
    assert "begun with another corpus" in capsys.readouterr().err
    (out / "shards.json").unlink()
    assert capture.main(request) == 2
    assert "holds shards without" in capsys.readouterr().err


def test_the_command_gives_each_site_its_folder(corpus: Path, tmp_path: Path, language_model: LanguageModel) -> None:
    request = [*asked_of_the_command(corpus, tmp_path / "out"), "--tokens", "200", "--site", "1", "0.mlp_out"]
    assert capture.main(request) == 0
    readers = [ShardReader(tmp_path / "out" / str(site), 1, 0) for site in (Site(1), Site(0, "mlp_out"))]
    assert readers[0].n == readers[1].n >= 200
    assert not torch.equal(*(reader.rows(np.arange(50)) for reader in readers))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--corpus", "none.parquet"], "no corpus"),
        (["--site", "nowhere"], "no site"),
        (["--site", "99"], "no block 99"),
        (["--tokens", "0"], "--tokens: 0 is too small"),
        (["--context", "1"], "--context"),
        (["--model", "no/such-model", "--device", "abacus"], "abacus"),
    ],
)
def test_a_refused_command_leaves_nothing_behind(
    corpus: Path, tmp_path: Path, change: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert capture.main([*asked_of_the_command(corpus, tmp_path / "out"), *change]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_output_must_be_a_folder(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert capture.main(asked_of_the_command(corpus, corpus)) == 2
    assert "is a file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_command_goes_on(corpus: Path, captured: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "experiments.capture", *asked_of_the_command(corpus, out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not (out / "part000.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list(out.glob("part*.safetensors"))) < len(open_shards(captured))
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    ours, whole = load_file(out / "part002.safetensors"), load_file(captured / "part002.safetensors")
    np.testing.assert_array_equal(ours["acts"].float(), whole["acts"].float())
    assert set(contents(out)) == set(contents(captured))
