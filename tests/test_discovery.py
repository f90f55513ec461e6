"""Discovery finds what a naive loop finds, in bounded memory, whatever interrupts it."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from experiments import discover as command
from neurosae import stimuli
from neurosae.capture import capture
from neurosae.decoding.fitted import FittedEnsemble, encoder_of, fit_ensemble
from neurosae.decoding.variants import Variant
from neurosae.discovery import gold
from neurosae.discovery.keeping import Keeper, Sentence
from neurosae.discovery.ranking import average_precision, chance_average_precision
from neurosae.discovery.search import DECILE, RANDOM, TOP, Discovery, discover, score_sentences, word_scores
from neurosae.errors import UserError
from neurosae.models import LanguageModel
from neurosae.representations import Bench, Source
from neurosae.sae import loading
from neurosae.sae.encoding import encode
from neurosae.sae.overlap import FILE, hash_texts

CHILD = """
import sys
from pathlib import Path
import pandas as pd
from neurosae import stimuli
from neurosae.discovery.search import discover
from neurosae.decoding.fitted import FittedEnsemble
from neurosae.representations import Bench, Source
folder = Path(sys.argv[1])
texts = list(pd.read_json(folder / "texts.json")["text"]) * 3
ensembles = [FittedEnsemble.load(folder / "ensemble.json")]
bench = Bench(stimuli.load("golden_gate_bridge"), Source())
discover(bench, ensembles, texts, split=False, top=3, sample=12, batch_size=1, resume=folder / "state")
"""


@pytest.fixture(scope="module")
def bench(language_model: LanguageModel) -> Bench:
    return loaded(Bench(stimuli.load("golden_gate_bridge"), Source()), language_model)


def loaded(bench: Bench, language_model: LanguageModel) -> Bench:
    """With the language model of the session, so that it is not loaded again."""
    bench._language_model = language_model
    return bench


@pytest.fixture(scope="module")
def ensembles(bench: Bench) -> list[FittedEnsemble]:
    variants = [
        Variant("raw", "t", 8, "logistic_l2", 15, "mean"),
        Variant("sae", "t", 8, "logistic_l2", 15, "mean"),
        Variant("raw", "t", 4, "logistic_l2", 3, "last"),
        Variant("untrained_sae", "t", 4, "logistic_l2", 15, "max"),
    ]
    return [fit_ensemble(bench, "golden_gate", variant) for variant in variants]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Forty graded sentences, ten of them about the bridge."""
    corpus = gold.load().table
    about, other = corpus[corpus["golden_gate"] >= 2], corpus[corpus["golden_gate"] == 0]
    return pd.concat([about.head(10), other.head(30)]).sort_values("id").reset_index(drop=True)


@pytest.fixture(scope="module")
def found(bench: Bench, ensembles: list[FittedEnsemble], table: pd.DataFrame) -> Discovery:
    return discover(bench, ensembles, table["text"], split=False, top=6, per_decile=2, n_random=5, batch_size=8)


def test_scores_are_those_of_a_loop_over_sentences(
    found: Discovery, bench: Bench, ensembles: list[FittedEnsemble], table: pd.DataFrame
) -> None:
    assert found.scores_NE.shape == (40, len(ensembles))
    for n in (39,):
        for e, ensemble in enumerate(ensembles):
            neurons = capture(bench.language_model, [table["text"][n]], [ensemble.site])[ensemble.site]
            sae = encoder_of(bench, ensemble)
            responses = neurons if sae is None else encode(sae, neurons, "")
            pooled_SF = responses.pool(ensemble.variant.pooling).dense()  # type: ignore[arg-type]
            expected = ensemble.decision(pooled_SF[:, ensemble.features_K])[0]
            assert found.scores_NE[n, e] == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_the_strongest_are_the_largest_scores(found: Discovery, table: pd.DataFrame) -> None:
    for e in range(len(found.ensembles)):
        top = found.of(e)
        order = np.argsort(-found.scores_NE[:, e], kind="stable")[:6]
        assert top["sentence"].tolist() == order.tolist()
        assert top["text"].tolist() == table["text"][order].tolist()
        assert top["rank"].tolist() == [1, 2, 3, 4, 5, 6]


def test_tokens_add_up_to_the_score(found: Discovery, bench: Bench) -> None:
    sums = found.tokens.groupby(["ensemble", "sentence"])["contribution"].sum()
    kept = found.texts.drop_duplicates(["ensemble", "sentence"]).set_index(["ensemble", "sentence"])
    intercept = np.array([ensemble.intercept for ensemble in found.ensembles])
    expected = kept["score"] - intercept[kept.index.get_level_values(0)]
    np.testing.assert_allclose(sums.loc[kept.index], expected, rtol=1e-6, atol=1e-6)
    for row in found.of(0).itertuples():
        tokens = found.tokens[(found.tokens["ensemble"] == 0) & (found.tokens["sentence"] == row.sentence)]
        assert "".join(tokens["token"]) == row.text
        assert tokens["position"].tolist() == list(range(len(tokens)))


def test_tenths_are_tenths_and_controls_are_shared(found: Discovery) -> None:
    for e in range(len(found.ensembles)):
        tenths = found.of(e, DECILE)
        assert tenths["decile"].value_counts().to_dict() == dict.fromkeys(range(1, 11), 2)
        ranks = {m: stats.rankdata(found.scores_NE[:, e], method=m)[tenths["sentence"]] for m in ("min", "max")}
        assert (np.ceil(ranks["min"] / 4) <= tenths["decile"]).all()  # equal scores are ordered by chance
        assert (tenths["decile"] <= np.ceil(ranks["max"] / 4)).all()
        assert set(found.of(e, RANDOM)["sentence"]) == set(found.of(0, RANDOM)["sentence"])
        assert len(found.of(e, RANDOM)) == 5
    assert set(found.texts["set"]) == {TOP, DECILE, RANDOM}


def test_the_ranking_finds_the_bridge(found: Discovery, table: pd.DataFrame) -> None:
    grades_S = table["golden_gate"].to_numpy()
    assert average_precision(found.scores_NE[:, 1], grades_S)[0] > 2 * chance_average_precision(grades_S)
    assert (found.of(1)["sentence"].map(table["golden_gate"]) >= 2).sum() >= 4


def test_company_does_not_change_a_score(
    found: Discovery, bench: Bench, ensembles: list[FittedEnsemble], table: pd.DataFrame
) -> None:
    for e in (1, 2):
        alone_S = score_sentences(bench, [ensembles[e]], table["text"][:12].tolist(), batch_size=8)[:, 0]
        np.testing.assert_allclose(alone_S, found.scores_NE[:12, e], rtol=1e-5, atol=1e-5)


def test_interrupted_it_goes_on_to_the_same_result(bench: Bench, table: pd.DataFrame, tmp_path: Path) -> None:
    settings_ = {"split": False, "top": 3, "per_decile": 1, "n_random": 4, "sample": 12, "batch_size": 1}
    variants = [Variant("raw", "t", 4, "logistic_l2", 3, how) for how in ("mean", "last")]
    pair = [fit_ensemble(bench, "golden_gate", variant) for variant in variants]

    def broken(after: int) -> Iterator[str]:
        yield from table["text"][:after]
        raise KeyboardInterrupt

    for after in (20, 35):
        with pytest.raises(KeyboardInterrupt):
            discover(bench, pair, broken(after), resume=tmp_path, **settings_)
    (state,) = tmp_path.iterdir()
    resumed = discover(bench, pair, table["text"], resume=tmp_path, **settings_)
    whole = discover(bench, pair, table["text"], **settings_)
    pd.testing.assert_frame_equal(resumed.texts, whole.texts, check_exact=True)
    pd.testing.assert_frame_equal(resumed.tokens, whole.tokens, check_exact=True)
    pd.testing.assert_frame_equal(resumed.sample, whole.sample)
    np.testing.assert_array_equal(resumed.scores_NE, whole.scores_NE)
    assert (resumed.n_texts, resumed.n_sentences, len(resumed.sample)) == (40, 40, 12)
    with pytest.raises(UserError, match="sentences differ"):
        discover(bench, pair, table["text"][::-1], resume=tmp_path, **settings_)
    state.write_bytes(state.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be continued"):
        discover(bench, pair, table["text"], resume=tmp_path, **settings_)


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_result(bench: Bench, table: pd.DataFrame, tmp_path: Path) -> None:
    """SIGKILL from outside, once there is a state."""
    ensemble = fit_ensemble(bench, "golden_gate", Variant("raw", "t", 4, "logistic_l2", 3, "mean"))
    ensemble.save(tmp_path / "ensemble.json")
    table.to_json(tmp_path / "texts.json")
    folder = tmp_path / "state"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)])
    while child.poll() is None and not list(folder.glob("*.npz")):
        time.sleep(0.02)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    (state,) = folder.glob("*.npz")
    assert 16 <= Keeper(1, 3, 12).restore(state)["n_read"] < 120
    settings_ = {"split": False, "top": 3, "sample": 12, "batch_size": 1}
    whole = discover(bench, [ensemble], list(table["text"]) * 3, **settings_)
    resumed = discover(bench, [ensemble], list(table["text"]) * 3, resume=folder, **settings_)
    assert resumed.n_sentences == 120
    pd.testing.assert_frame_equal(resumed.texts, whole.texts, check_exact=True)
    pd.testing.assert_frame_equal(resumed.tokens, whole.tokens, check_exact=True)


def test_texts_of_the_saes_training_are_named(
    ensembles: list[FittedEnsemble], table: pd.DataFrame, tmp_path: Path, language_model: LanguageModel
) -> None:
    folder = shutil.copytree(loading.bundled()[loading.DEFAULT], tmp_path / "sae")
    known = table["text"][3]
    np.save(folder / FILE, hash_texts([known]))
    bench = loaded(Bench(stimuli.load("golden_gate_bridge"), Source(sae=str(folder))), language_model)
    found = discover(bench, ensembles[:1], table["text"][:8], split=False)
    assert found.sample.loc[found.sample["in_sae_training"], "text"].tolist() == [known]
    assert set(found.texts.loc[found.texts["in_sae_training"], "text"]) == {known}
    assert found.overlap_reason == ""
    (folder / FILE).unlink()
    assert "without hashes" in discover(bench, ensembles[:1], ["She won the race."]).overlap_reason


def test_what_cannot_be_scored_is_counted(bench: Bench, ensembles: list[FittedEnsemble]) -> None:
    texts = ["The ferry left at nine. No. The pilot waved at the crew.", "word " * 300 + "end.", ""]
    found = discover(bench, ensembles[:1], texts, longest=100)
    assert found.sample["text"].tolist() == ["The ferry left at nine.", "The pilot waved at the crew."]
    assert (found.n_texts, found.n_sentences, found.n_too_long, found.n_without_value) == (3, 2, 1, 0)
    whole = discover(bench, ensembles[:1], texts, longest=100, split=False)
    assert (whole.n_sentences, whole.n_too_long, whole.n_without_value) == (1, 1, 1)


def test_bad_input_is_told(bench: Bench, ensembles: list[FittedEnsemble]) -> None:
    good = ["She won the race at last."]
    for chosen, texts, message in (
        (ensembles[:1], [], "no sentence that can be scored"),
        (ensembles[:1], ["", "No."], "no sentence that can be scored"),
        (ensembles[:1], ["She won the race.", 3], "Text 1 is int"),
        (ensembles[:1], [b"bytes are no text"], "Text 0 is bytes"),
        (ensembles[:1], ["half a pair \udcff is no text"], "no valid Unicode"),
        (ensembles[:1], "a single text", "a single text"),
        ([], good, "no ensemble"),
        ([replace(ensembles[0], variant=replace(ensembles[0].variant, pooling="target"))], good, "target spans"),
        ([replace(ensembles[0], chat=True), ensembles[1]], good, "chat template"),
        ([replace(ensembles[0], model=ensembles[0].model | {"model": "gpt2"})], good, "fitted on gpt2"),
        ([replace(ensembles[1], sae_identity="0")], good, "reads latents"),
    ):
        with pytest.raises(UserError, match=message):
            discover(bench, chosen, texts)  # type: ignore[arg-type]
    for name in ("top", "sample", "longest", "batch_size"):
        with pytest.raises(UserError, match=f"{name} is 0"):
            discover(bench, ensembles[:1], good, **{name: 0})
    with pytest.raises(UserError, match="no clean token"):
        score_sentences(bench, ensembles[:1], [""])
    with pytest.raises(UserError, match="no sentence to score"):
        score_sentences(bench, ensembles[:1], [])


def test_words_are_a_baseline_without_a_language_model() -> None:
    chosen = stimuli.load("golden_gate_bridge")
    scores_S = word_scores(
        chosen, "golden_gate", ["The Golden Gate Bridge was closed.", "Tower Bridge was closed.", "?"]
    )
    assert scores_S[0] > scores_S[2] > scores_S[1]


def _sentence(number: int, scores_E: np.ndarray) -> Sentence:
    return Sentence(f"sentence {number}", scores_E, ("a", "b"), np.outer([0.25, 0.75], scores_E))


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**31), st.data())
@settings(max_examples=40, deadline=None)
def test_chunks_do_not_change_what_is_kept(n: int, top: int, n_ensembles: int, seed: int, data: st.DataObject) -> None:
    scores_SE = np.random.default_rng(seed).integers(0, 8, (n, n_ensembles)).astype(float)
    texts = [f"sentence {number}" for number in range(n)]
    keepers = [Keeper(n_ensembles, top, 10, seed) for _ in range(2)]
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, n - 1)), max_size=4)))
    for keeper, bounds in zip(keepers, ([0, n], [0, *cuts, n]), strict=True):
        for start, stop in itertools.pairwise(bounds):
            keeper.add(
                range(start, stop),
                texts[start:stop],
                scores_SE[start:stop],
                lambda i, start=start: _sentence(start + i, scores_SE[start + i]),  # type: ignore[misc]
            )
    one, many = keepers
    assert (one.strongest, one.sampled, list(one.sentences)) == (many.strongest, many.sampled, list(many.sentences))
    for e in range(n_ensembles):
        assert one.strongest[e] == np.argsort(-scores_SE[:, e], kind="stable")[:top].tolist()
    assert len(one.sentences) <= n_ensembles * top + 10


def test_the_same_words_count_once() -> None:
    keeper = Keeper(1, top=2, sample=10)
    texts = ["The lamp went out.", "the lamp  went out!", "Nobody moved.", "Nobody spoke."]
    scores_SE = np.array([[2.0], [3.0], [1.0], [0.0]])
    for start in (0, 2):
        part = slice(start, start + 2)
        keeper.add(
            range(start, start + 2),
            texts[part],
            scores_SE[part],
            lambda i, start=start: Sentence(texts[start + i], scores_SE[start + i], (), np.zeros((0, 1))),  # type: ignore[misc]
        )
    assert keeper.strongest == [[1, 2]]
    assert sorted(keeper.sampled) == [0, 1, 2, 3]


def test_every_sentence_is_as_likely_to_be_sampled() -> None:
    counts_S = np.zeros(40)
    for seed in range(300):
        keeper = Keeper(1, 1, 10, seed)
        keeper.add(range(40), [str(i) for i in range(40)], np.zeros((40, 1)), lambda i: _sentence(i, np.zeros(1)))
        counts_S[keeper.sampled] += 1
    assert stats.chisquare(counts_S).pvalue > 0.001


def test_a_state_comes_back(tmp_path: Path) -> None:
    keeper = Keeper(2, 3, 4, seed=1)
    scores_SE = np.random.default_rng(0).normal(size=(9, 2))
    keeper.add(range(9), [f"sentence {i}" for i in range(9)], scores_SE, lambda i: _sentence(i, scores_SE[i]))
    keeper.save(tmp_path / "s.npz", {"n_read": 9})
    again = Keeper(2, 3, 4, seed=1)
    assert again.restore(tmp_path / "s.npz") == {"n_read": 9}
    assert (again.strongest, again.sampled) == (keeper.strongest, keeper.sampled)
    for number, sentence in keeper.sentences.items():
        assert (again.sentences[number].text, again.sentences[number].tokens) == (sentence.text, sentence.tokens)
        np.testing.assert_array_equal(again.sentences[number].scores_E, sentence.scores_E)
        np.testing.assert_array_equal(again.sentences[number].contributions_TE, sentence.contributions_TE)


@pytest.mark.slow
def test_the_command_ranks_graded_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--concept", "golden_gate_bridge", "--representation", "raw", "--selector", "t"]
    few = ["--texts", "40", "--random", "1", "--resamples", "50", "--top", "12"]
    assert command.main([*arguments, *few, "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("  grade ") >= 10
    assert "target 'golden_gate'" in shown
    table = pd.read_csv(tmp_path / "retrieval.csv")
    rankings = ["b15-mean-raw-t-k08-logistic_l2", "random features, draw 0", "bag of words"]
    assert list(dict.fromkeys(table["ranking"])) == [*rankings, *(f"minus {name}" for name in rankings[1:])]
    assert table["low"].le(table["high"]).all()
    texts = pd.read_parquet(tmp_path / "texts.parquet")
    grades = gold.load().grades("golden_gate")
    assert (texts["grade"] == grades[texts["sentence"]]).all()
    assert json.loads((tmp_path / "discovery.json").read_text())["n_sentences"] == 40
    assert FittedEnsemble.load(tmp_path / "ensemble.json").target == "golden_gate"


BASIC = ["--representation", "raw", "--selector", "t", "--random", "0"]


@pytest.mark.slow
def test_the_command_reads_any_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.txt").write_text("The bridge was closed to cars. Nobody in the room moved.\n\nShe went home by bus.")
    own = [*BASIC, "--concept", "golden_gate_bridge", "--corpus", str(tmp_path / "c.txt")]
    assert command.main([*own, "--out", str(tmp_path / "o")]) == 0
    assert "3 sentences of 2 texts" in capsys.readouterr().out
    assert not (tmp_path / "o" / "retrieval.csv").exists()
    (tmp_path / "empty.txt").write_text("")
    own = [*BASIC, "--concept", "golden_gate_bridge", "--corpus", str(tmp_path / "empty.txt")]
    assert command.main([*own, "--out", str(tmp_path / "p")]) == 2
    assert "no sentence" in capsys.readouterr().err


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--concept", "golden_gate_bridge", "--contrast", "genre"], "no grades for 'encyclopedic'"),
        (["--concept", "golden_gate_bridge", "--corpus", "nowhere.txt"], "no corpus"),
        (["--concept", "golden_gate_bridge", "--texts", "0"], "--texts is 0"),
    ):
        assert command.main([*BASIC, *arguments, "--out", str(tmp_path / "p")]) == 2
        assert message in capsys.readouterr().err
