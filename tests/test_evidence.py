"""What a run keeps for its report: every number against a naive loop or an independent path, and the stage itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics.pairwise import cosine_similarity

from experiments.reporting import _best_ensemble
from neurosae.decoding.variants import Grid
from neurosae.discovery import gold
from neurosae.errors import UserError
from neurosae.evidence import about, blocks, cards, decoder, geometry, repeatability, tables, writing
from neurosae.evidence.cards import Heard
from neurosae.files import cache_folder
from neurosae.models import LanguageModel
from neurosae.rdms import compare_models
from neurosae.representations import Bench, Source
from neurosae.runs import RunFolder, best_selecting
from neurosae.sites import Site
from neurosae.steering.causal import EndingPairs
from neurosae.steering.generation import generate
from neurosae.steering.interventions import NothingChanged
from neurosae.stimuli import LabelledContrast, StimulusSet, load
from neurosae.study import evidence_stage
from neurosae.study.contrast_run import ContrastRun, Settings, Tables
from neurosae.study.evidence_stage import finite, keep
from neurosae.study.steer_stage import steer
from neurosae.study.work import StageResult, StageSettings, Work
from neurosae.univariate.compute import compute_contrast

ALL_STAGES = ("select", "discover", "steer", "evidence")
JSON = ("about", "features", "rsa", "steering")
TABLES = ("stimuli", "confounds", "map_blocks", "map_top", "reliability")


@pytest.fixture(scope="module")
def few() -> StimulusSet:
    return load("success").subset(np.arange(32))


@pytest.fixture(scope="module")
def sides(few: StimulusSet) -> LabelledContrast:
    return LabelledContrast.of(few)


def strict(path: Path) -> dict[str, Any]:
    """JSON without NaN or Infinity, which are no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{path.name} holds {name}")

    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    return found


def unpaired(tmp_path: Path, n: int = 24) -> StimulusSet:
    """A user's own set: no pairs, no domains, no target spans, no grades; each text begins in its own way."""
    texts = load("success").table["text"]
    lines = ["name: bare", "target: a", "definition: none", "factors: {side: [a, b]}"]
    lines += ['contrasts: {bare: "a - b"}', "items:"]
    lines += [f'  - {{id: i{i}, side: {"ab"[i % 2]}, text: "Number {i}. {texts.iloc[i]}"}}' for i in range(n)]
    path = tmp_path / "bare.yaml"
    path.write_text("\n".join(lines))
    return StimulusSet.from_yaml(path)


def test_sides_are_named_after_their_levels_and_an_interaction_after_its_sign(sides: LabelledContrast) -> None:
    assert sides.names == ("success", "failure")
    assert set(zip(sides.side_S, sides.labels_S.tolist(), strict=True)) == {("success", 1), ("failure", -1)}
    names = {name: LabelledContrast.of(load("valence"), name).names for name in load("valence").contrasts}
    interactions = [name for name, c in load("valence").contrasts.items() if c.is_interaction]
    assert interactions
    assert all(names[name] == (f"{name} > 0", f"{name} < 0") for name in interactions)


def test_json_holds_plain_finite_values_only() -> None:
    value = {"a": np.float32(0.5), "b": [np.nan, np.inf, np.int64(3)], 4: (np.array([1.0, np.nan]), "text", None, True)}
    assert finite(value) == {"a": 0.5, "b": [None, None, 3], "4": [[1.0, None], "text", None, True]}
    assert isinstance(finite(np.int64(3)), int)


@pytest.mark.parametrize("sparse", [True, False])
def test_every_stimulus_is_in_one_bin_or_silent(
    sides: LabelledContrast, rng: np.random.Generator, sparse: bool
) -> None:
    value_S = np.maximum(rng.normal(size=len(sides.rows)), 0)
    found = cards.histogram(value_S, sides, sparse)
    for name, sign in zip(sides.names, (1, -1), strict=True):
        of_side = value_S[sides.labels_S == sign]
        assert found["n"][name] == len(of_side)
        assert found["silent"][name] == ((of_side == 0).sum() if sparse else 0)
        assert sum(found["counts"][name]) + found["silent"][name] == len(of_side)
    nothing = cards.histogram(np.zeros(len(value_S)), sides, sparse=True)
    assert nothing["edges"] == []
    assert sum(nothing["silent"].values()) == len(value_S)


def test_the_strongest_texts_are_those_of_a_naive_loop(sides: LabelledContrast, language_model: LanguageModel) -> None:
    bench = Bench(sides.stimuli, Source(), language_model=language_model)
    responses, texts = bench.neurons(Site(15)), sides.stimuli.table["text"].tolist()
    heard, among = Heard.of(responses, texts, "mean"), np.arange(0, 32, 2)
    clean = responses.tokens["clean"].to_numpy(dtype=bool)
    owner = responses.tokens["stimulus"].to_numpy()
    means = {row: responses.values[clean & (owner == row)][:, 7].astype(float).mean() for row in among}
    expected = sorted(means, key=lambda row: means[row])
    for sign, best in ((1, expected[::-1][:3]), (-1, expected[:3])):
        found = heard.strongest(7, among, 3, sign=sign)
        assert [text["row"] for text in found] == best
        assert [text["value"] for text in found] == pytest.approx([means[row] for row in best], abs=1e-4)
    tokens = heard.strongest(7, among, 1)[0]
    shown = responses.tokens[(owner == tokens["row"]) & (responses.tokens["role"] == "text")]
    assert [tokens["text"][start:stop] for start, stop, _ in tokens["tokens"]] == shown["token"].tolist()
    values = responses.values[shown.index[clean[shown.index]], 7]
    assert [v for *_, v in tokens["tokens"] if v] == pytest.approx(values.tolist(), abs=1e-4)


def test_silent_texts_are_no_evidence_for_a_latent(sides: LabelledContrast, language_model: LanguageModel) -> None:
    responses = Bench(sides.stimuli, Source(), language_model=language_model).latents(Site(15))
    heard = Heard.of(responses, sides.stimuli.table["text"].tolist(), "mean")
    active_F = (heard.value_SF != 0).sum(axis=0)
    rare = int(np.flatnonzero(active_F == 2)[0])
    found = heard.strongest(rare, np.arange(32), 6)
    assert len(found) == 2
    assert all(max(value for *_, value in text["tokens"]) > 0 for text in found)


def test_effects_are_those_of_textbook_formulas(sides: LabelledContrast, rng: np.random.Generator) -> None:
    X_SK = rng.normal(size=(len(sides.rows), 3)) + np.outer(sides.labels_S, [1.0, 0.0, -0.5])
    found = cards.effects(X_SK, sides)
    for k, row in enumerate(found):
        pairs = pd.DataFrame({"x": X_SK[:, k], "side": sides.labels_S, "pair": sides.blocks_S}).pivot(
            index="pair", columns="side", values="x"
        )
        difference = pairs[1] - pairs[-1]
        assert row["d"] == pytest.approx(difference.mean() / difference.std(ddof=1))
        u = stats.mannwhitneyu(pairs[1], pairs[-1]).statistic
        assert row["auroc"] == pytest.approx(u / len(pairs) ** 2)
        assert row["reliability"] == pytest.approx(max(0.0, 1 - 1 / row["t"] ** 2))
    constant = cards.effects(np.ones((len(sides.rows), 1)), sides)[0]
    assert constant["reason"] == "constant"
    assert np.isfinite([constant["d"], constant["auroc"]]).all()


def test_choices_are_merged_over_selectors_and_the_random_draw_is_no_vote() -> None:
    cell = {"representation": "sae", "block": 15, "selection": {"feature": [4, 9], "share": [1.0, 0.5]}}
    chose = [
        cell | {"selector": name, "features": {"feature": features, "direction": [1, -1]}}
        for name, features in (("t", [4, 9]), ("auroc", [4, 2]), ("random", [9, 8]))
    ]
    found = {choice.feature: choice for choice in cards.choices(chose)}
    assert list(found) == [4, 9, 2, 8]
    assert {f: (c.votes, c.chosen_by) for f, c in found.items()} == {
        4: (2, ["t", "auroc"]), 9: (1, ["t", "random"]), 2: (1, ["auroc"]), 8: (0, ["random"]),
    }  # fmt: skip
    assert found[4].share_of_folds == {"t": 1.0, "auroc": 1.0}
    assert found[2].share_of_folds == {"auroc": 0.0}


def test_neighbours_are_those_of_an_independent_cosine(few: StimulusSet) -> None:
    sae = Bench(few, Source()).sae
    cosine_F = cosine_similarity(sae.W_dec[8446:8447].detach().numpy(), sae.W_dec.detach().numpy())[0]
    cosine_F[8446] = -1
    found = decoder.neighbours(sae, 8446, n=4)
    assert [row["feature"] for row in found] == np.argsort(-cosine_F)[:4].tolist()
    assert [row["cosine"] for row in found] == pytest.approx(np.sort(cosine_F)[::-1][:4].tolist(), abs=1e-4)


def test_logits_are_the_odd_part_of_what_norm_and_head_do(
    language_model: LanguageModel, rng: np.random.Generator
) -> None:
    """head(norm(v)) - head(norm(-v)), centred, is proportional to the direct effect."""
    plain: Any = language_model.plain
    direction_D = rng.normal(size=language_model.d_model)
    v = torch.tensor(direction_D, dtype=torch.float32)
    with torch.inference_mode():
        odd_V = (plain.lm_head(plain.model.norm(v)) - plain.lm_head(plain.model.norm(-v))).double().numpy()
    odd_V -= odd_V.mean()
    found = decoder.logit_effects(language_model, direction_D[None], n=8)[0]
    order = np.argsort(-odd_V)
    names = [language_model.tokenizer.decode([token]) for token in order]
    assert [row["token"] for row in found["promoted"]] == names[:8]
    assert [row["token"] for row in found["suppressed"]] == names[::-1][:8]
    ratio = [row["value"] / odd_V[token] for row, token in zip(found["promoted"], order[:8], strict=True)]
    assert np.ptp(ratio) < 1e-3 * abs(ratio[0])
    with pytest.raises(UserError, match="read out"):
        decoder.logit_effects(language_model, np.ones((1, 3)))


def test_confounds_are_of_the_contrast_and_end_with_the_words(sides: LabelledContrast) -> None:
    longer = sides.stimuli.table.assign(
        text=sides.table["text"] + pd.Series(np.where(sides.labels_S > 0, " at once", ""))
    )
    found = tables.confound_table(LabelledContrast.of(replace(sides.stimuli, table=longer))).set_index("measure")
    assert found.loc["words", "difference"] > 1.5
    assert "differs" in found.loc["words", "verdict"]
    assert "not tested: no language model" in found.loc["surprisal", "verdict"]
    assert found.index[-1] == "bag of words"
    assert found.loc["bag of words", "value"] > 0.9
    assert "lexical" in found.loc["bag of words", "verdict"]


def test_surprisal_is_that_of_a_naive_loop_and_long_texts_are_never_batched(language_model: LanguageModel) -> None:
    plain: Any = language_model.plain
    texts, held = ["It failed.", "They won the cup " * 20, "Nobody knew why it sank in the end."], []
    hook = plain.lm_head.register_forward_hook(lambda _module, _inputs, logits: held.append(logits[..., 0].numel()))
    found = tables.surprisal(language_model)(texts)
    hook.remove()
    longest = max(map(len, language_model.token_ids(texts)))
    assert longest > tables.LONG and max(held) <= longest
    for ids, nats in zip(language_model.token_ids(texts), found, strict=True):
        with torch.inference_mode():
            log_p = plain(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        assert nats == pytest.approx(-log_p[range(len(ids) - 1), ids[1:]].mean().item(), abs=1e-4)


def test_blocks_are_corrected_over_all_of_them_as_a_contrast_map_is(
    sides: LabelledContrast, language_model: LanguageModel
) -> None:
    """The map over blocks and the tests of `neurosae.univariate` are two paths to the same p-values."""
    bench, chosen = Bench(sides.stimuli, Source(), language_model=language_model), [3, 15, 29]
    bench.listen([Site(block) for block in chosen])
    found = blocks.map_blocks(bench, sides, chosen, n_top=10_000, n_permutations=99)
    heard = {Site(block): bench.neurons(Site(block)) for block in chosen}
    expected = compute_contrast(heard, sides.stimuli, height_control="fwe", n_permutations=99).to_frame()
    both = found.top.merge(expected, on=["block", "feature"], suffixes=("", "_map"))
    assert len(both) == len(found.top) == 3 * 576
    np.testing.assert_allclose(both["t"], both["t_map"], rtol=1e-6)
    np.testing.assert_allclose(both["p_fwe"], both["p_corrected"])
    assert (both["p_fwe"] >= both["p_fwe_block"]).all()
    for row in found.blocks.to_dict("records"):
        of_block = both[both["block"] == row["block"]]
        assert row["n_significant"] == (of_block["p_fwe"] <= 0.05).sum()
        assert row["n_significant_within"] == (of_block["p_fwe_block"] <= 0.05).sum() >= row["n_significant"]
        assert row["largest_t"] == of_block["t"].abs().max()
    assert found.top["t"].abs().is_monotonic_decreasing


def test_little_memory_gives_the_same_map(
    few: StimulusSet, language_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several passes of a few blocks, into a cache of its own, or one pass of all."""
    two = few.subset(np.arange(2))
    whole = blocks.listen_everywhere(two, Source(), language_model)
    (tmp_path / "norms").symlink_to(cache_folder("norms"))
    monkeypatch.setenv("NEUROSAE_CACHE", str(tmp_path))
    pieces = blocks.listen_everywhere(two, Source(), language_model, most_bytes=10 * 4 * 576 * 40)
    assert pieces.folder != whole.folder
    for block in (0, 29):
        np.testing.assert_allclose(pieces.neurons(Site(block)).values, whole.neurons(Site(block)).values, atol=1e-3)
        assert pieces.neurons(Site(block)).tokens.equals(whole.neurons(Site(block)).tokens)


@pytest.mark.parametrize(("effect", "df"), [(0.0, 12), (2.0, 12), (5.0, 40)])
def test_reliability_intervals_hold_the_truth_as_often_as_they_say(effect: float, df: int) -> None:
    t_B = stats.nct.rvs(df, effect, size=1000, random_state=1)
    truth = effect**2 / (1 + effect**2)
    inside = [low <= truth <= high for low, high in (repeatability.reliability_interval(float(t), df) for t in t_B)]
    assert np.mean(inside) >= 0.93
    assert effect == 0 or np.mean(inside) <= 0.985


def test_the_held_out_decision_is_what_is_reliable(sides: LabelledContrast, rng: np.random.Generator) -> None:
    X_SF = rng.normal(size=(len(sides.rows), 5))
    X_SF[:, 0] += 2 * sides.labels_S
    cell: dict[str, Any] = {"representation": "raw", "block": 3, "selector": "t", "k": 2}
    good = cell | {"decision": X_SF[:, 0].tolist(), "features": {"feature": [0, 3]}}
    flat = good | {"decision": [1.0] * len(sides.rows)}
    found = repeatability.selectors_table([good, flat], {"raw": X_SF}, sides)
    pairs = X_SF[sides.labels_S > 0, 0] - X_SF[sides.labels_S < 0, 0]
    t = stats.ttest_1samp(pairs, 0).statistic
    assert found["reliability"][0] == pytest.approx(1 - 1 / t**2)
    assert found["low"][0] < found["reliability"][0] < found["high"][0]
    assert (found["low"][0], found["high"][0]) == repeatability.reliability_interval(t, len(pairs) - 1)
    assert found["reason"][1] == "the decision is the same for all items"
    maps = repeatability.maps_table({"raw": X_SF, "one": X_SF[:, :1]}, {"raw": 3, "one": 3}, sides, n_permutations=19)
    assert 0 <= maps["reliability"][0] <= 1
    assert "no interval" in maps["reason"][0]
    assert np.isnan(maps["reliability"][1]) and "features vary" in maps["reason"][1]


def test_rdms_are_ordered_by_side_and_domain_and_scored_like_any_other(
    sides: LabelledContrast, rng: np.random.Generator
) -> None:
    chosen = geometry.order(sides)
    assert sides.labels_S[chosen].tolist() == [1] * 16 + [-1] * 16
    for sign in (1, -1):
        domains = sides.table["domain"].iloc[chosen[sides.labels_S[chosen] == sign]].tolist()
        assert domains == sorted(domains)
    X_SF = rng.normal(size=(32, 40)) + np.outer(sides.labels_S, rng.normal(size=40))
    found = geometry.geometry(X_SF, sides, chosen, n_bootstrap=200, n_permutations=99)
    expected_SS = 1 - np.corrcoef(X_SF[chosen])
    np.testing.assert_allclose(found["rdm"], expected_SS[np.triu_indices(32, 1)], atol=6e-5)
    models = {row["model"]: row for row in found["models"]}
    assert list(models) == ["category", "domain", "length", "word overlap"]
    hypotheses, _ = geometry.models(sides, chosen)
    about_items = {"groups": sides.groups_S[chosen], "n_bootstrap": 8, "n_permutations": 9}
    scores = compare_models(expected_SS, hypotheses, **about_items).table
    assert [row["score"] for row in found["models"]] == pytest.approx(scores["score"].tolist(), abs=1e-9)
    assert models["category"]["p"] == pytest.approx(0.01)
    assert "no arrangement" in models["domain"]["note"]
    assert models["domain"]["p"] is models["domain"]["p_holm"] is None
    assert found["ceiling"] is None and "noise ceiling" in found["ceiling_reason"]


def test_large_sets_are_drawn_by_whole_items_and_silent_patterns_left_out(sides: LabelledContrast) -> None:
    chosen = geometry.order(sides, most=10)
    assert 10 <= len(chosen) <= 12
    assert np.bincount(sides.groups_S[chosen]).tolist().count(1) == 0
    X_SF = np.random.default_rng(0).normal(size=(32, 6))
    X_SF[5] = 0
    found = geometry.geometry(X_SF, sides, geometry.order(sides), n_bootstrap=50, n_permutations=9)
    assert found["undefined"] == [sides.table["id"].iloc[5]]
    assert len(found["rdm"]) == 31 * 30 // 2


def test_prompts_are_spread_and_texts_differ_by_the_change_alone(language_model: LanguageModel) -> None:
    starts = [f"Number {i} was" for i in range(9)]
    ids = language_model.token_ids(starts)
    table = pd.DataFrame({"target": list("abcdefghi"), "foil": list("ABCDEFGHI"), "shared": starts, "usable": True})
    pairs = EndingPairs(table, [[*row, 5] for row in ids], [[*row, 6] for row in ids], [len(row) for row in ids])
    started = writing.prompts(pairs, 3)
    assert [prompt["text"] for prompt in started] == [starts[0], starts[4], starts[8]]
    assert [prompt["ids"] for prompt in started] == [ids[0], ids[4], ids[8]]

    class Nothing:
        def __getattr__(self, name: str) -> Any:
            raise NothingChanged("it changes nothing")

    found = writing.written(language_model, started, {writing.TARGET: Nothing()}, n_tokens=3)  # type: ignore[dict-item]
    plain = generate(language_model, [prompt["ids"] for prompt in started], n_tokens=3)
    assert [row["text"] for row in found[:3]] == [language_model.tokenizer.decode(row) for row in plain]
    assert {row["reason"] for row in found[3:]} == {"it changes nothing"}
    scored = writing.scored(found, started, lambda texts: [len(text) for text in texts])
    assert scored[0]["score"] == len(starts[0] + found[0]["text"])
    assert scored[3]["score"] is None
    nobody = replace(pairs, table=table.assign(usable=False), target_ids=[], foil_ids=[], starts=[])
    assert writing.prompts(nobody) == []
    assert writing.written(language_model, [], {}) == []


def test_references_are_of_what_ran() -> None:
    few, many = about.references(("select",), "gpt2", False), about.references(ALL_STAGES, "smollm2-135m", True)
    assert set(few) < set(many)
    assert not any("SmolLM2" in text or "autoencoder" in text for text in few)
    assert many == sorted(many, key=str.casefold)


def test_the_best_that_selects_is_a_method_unless_there_are_yardsticks_only() -> None:
    cells: list[dict[str, Any]] = [
        {"representation": representation, "selector": selector, "auroc": {"mean": mean}}
        for representation, selector, mean in (("raw", "t", 0.5), ("raw", "random", 0.6), ("untrained_sae", "t", 0.7))
    ]
    assert best_selecting(cells) is cells[0]
    assert best_selecting(cells[1:]) is cells[2]
    assert best_selecting([cells[0] | {"selector": "all"}]) is None


def made(work: Work) -> Tables:
    return work.run.compute(work.folder)


def a_run(stimuli: StimulusSet, out: Path, **grid: Any) -> Work:
    size: dict[str, Any] = {"representations": ("raw", "sae"), "selectors": ("t", "random"), "ks": (8,)}
    shape = Grid(blocks=(15,), sae_block=15, controls=False, **size | grid)
    settings = Settings(shape, Source(), n_splits=2, n_repeats=1, n_permutations=5, jobs=1, progress=False)
    run = ContrastRun(stimuli, stimuli.contrast().name, settings)
    folder = RunFolder(out, run.configuration())
    run.compute(folder)
    few = StageSettings(resamples=50, random_features=1, random_directions=1, doses=(0.9,), most_pairs=6)
    work = Work(run, folder, few)
    corpus = gold.load()
    work.corpus = replace(corpus, table=corpus.table.iloc[::12].reset_index(drop=True))
    return work


@pytest.fixture(scope="module")
def kept(few: StimulusSet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Work, dict[str, StageResult]]]:
    work = a_run(few, tmp_path_factory.mktemp("run"))
    results = {"steer": steer(work)}
    with pytest.MonkeyPatch.context() as shorter:
        shorter.setattr(evidence_stage, "STEERED_TOKENS", 4)
        keep(work, made(work), ALL_STAGES, results)
        yield work, results


def test_a_run_keeps_its_evidence(kept: tuple[Work, dict[str, StageResult]]) -> None:
    work, _ = kept
    folder, cells = work.folder.path, made(work).cells
    records = {name: strict(folder / "evidence" / f"{name}.json") for name in JSON}
    assert {record["format"] for record in records.values()} == {evidence_stage.FORMAT}
    frames = {name: pd.read_parquet(folder / "tables" / f"{name}.parquet") for name in TABLES}
    best = best_selecting(cells)
    assert best is not None
    assert frames["stimuli"]["decision"].tolist() == best["decision"]
    assert frames["stimuli"]["side"].value_counts().to_dict() == {"success": 16, "failure": 16}
    assert len(frames["map_blocks"]) == work.bench.language_model.n_blocks
    assert len(frames["map_top"]) == evidence_stage.TOP_TESTS
    assert frames["reliability"]["kind"].value_counts().to_dict() == {"selector": 4, "map": 2}
    chosen = {(c["representation"], f) for c in cells for f in c["features"]["feature"]}
    of_cards = records["features"]["cards"]
    assert len(of_cards) == min(evidence_stage.MOST_CARDS, len(chosen))
    assert {(card["representation"], card["feature"]) for card in of_cards} <= chosen
    assert {text["where"] for text in of_cards[0]["texts"]} == {"corpus", "stimuli"}
    for card in of_cards:
        for text in card["texts"]:
            assert all(0 <= start < stop <= len(text["text"]) for start, stop, _ in text["tokens"])
            assert (text["grade"] is None) == (text["where"] == "stimuli")
        assert len(card["logits"]["promoted"]) == 10
        assert bool(card["neighbours"]) == (card["representation"] == "sae")
    assert set(records["rsa"]["representations"]) == {"raw", "sae"}
    assert len(records["steering"]["texts"]) == 3 * len(records["steering"]["prompts"]) > 0
    train = strict(folder / "evidence" / "about.json")
    assert (train["sides"], train["sae"]["width"], train["sae"]["reason"]) == (["success", "failure"], 9216, "")


def test_a_domain_with_dollars_is_no_formula(kept: tuple[Work, dict[str, StageResult]]) -> None:
    work, _ = kept
    priced = replace(work.run.stimuli, table=work.run.stimuli.table.assign(domain=r"$\frac$ of the price"))
    figure = _best_ensemble(ContrastRun(priced, work.run.contrast, work.run.settings), made(work))
    figure.canvas.draw()
    assert r"\$\frac\$ of the price" in [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_what_is_there_is_not_made_again_and_what_is_lost_comes_back_bitwise(
    kept: tuple[Work, dict[str, StageResult]],
) -> None:
    work, results = kept
    files = {p: p.read_bytes() for part in ("evidence", "tables") for p in (work.folder.path / part).iterdir()}
    again = Work(work.run, work.folder, work.settings)
    keep(again, made(again), ALL_STAGES, results)
    assert "bench" not in vars(again)  # nothing was read, no language model loaded
    lost = [work.folder.path / "evidence" / "features.json", work.folder.path / "tables" / "map_blocks.parquet"]
    for path in lost:
        path.unlink()
    again.corpus = work.corpus
    keep(again, made(again), ALL_STAGES, results)
    assert {path: path.read_bytes() for path in files} == files


def test_what_an_interrupted_run_with_other_stages_left_is_not_taken_for_new(
    kept: tuple[Work, dict[str, StageResult]], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, results = kept
    file = work.folder.path / "evidence" / "features.json"
    before, write = file.read_bytes(), evidence_stage.write_json

    def cut_short(path: Path, value: Any) -> None:
        write(path, value)
        if path == file:
            raise KeyboardInterrupt

    monkeypatch.setattr(evidence_stage, "write_json", cut_short)
    with pytest.raises(KeyboardInterrupt):
        keep(work, made(work), ("select", "evidence"), {})
    monkeypatch.undo()
    assert file.read_bytes() != before
    keep(work, made(work), ALL_STAGES, results)
    assert file.read_bytes() == before


def test_what_cannot_be_made_of_a_set_is_left_out_with_its_reason(
    kept: tuple[Work, dict[str, StageResult]], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, results = kept

    def refuse(_: object) -> evidence_stage.Files:
        raise UserError("nothing can be exchanged")

    missing = work.folder.path / "evidence" / "missing.json"
    assert strict(missing)["reasons"] == {}
    monkeypatch.setitem(evidence_stage.PIECES, "odd", evidence_stage.Piece(("evidence/odd.json",), refuse))
    keep(work, made(work), ALL_STAGES, results)
    assert strict(missing)["reasons"] == {"evidence/odd": "nothing can be exchanged"}
    monkeypatch.undo()
    keep(work, made(work), ALL_STAGES, results)
    assert strict(missing)["reasons"] == {}


def test_missing_pieces_say_why(tmp_path: Path) -> None:
    """No pairs, no domains, no grades, no SAE, no corpus read, no steering."""
    work = a_run(unpaired(tmp_path), tmp_path / "run", representations=("raw",), selectors=("t",))
    keep(work, made(work), ("select", "evidence"), {})
    records = {name: strict(work.folder.path / "evidence" / f"{name}.json") for name in JSON}
    assert records["about"]["sae"] is None
    assert records["about"]["n_domains"] == 0
    assert "did not run" in records["about"]["judge"]["reason"]
    assert "did not run" in records["steering"]["reason"]
    features = records["features"]
    assert (features["corpus"], bool(features["corpus_reason"])) == ("", True)
    assert {text["where"] for card in features["cards"] for text in card["texts"]} == {"stimuli"}
    assert all(card["neighbours_reason"] for card in features["cards"])
    domain = next(row for row in records["rsa"]["representations"]["raw"]["models"] if row["model"] == "domain")
    assert "no domains" in domain["reason"]
    reliability = pd.read_parquet(work.folder.path / "tables" / "reliability.parquet")
    assert (reliability["reliability"].notna() | (reliability["reason"] != "")).all()
    assert pd.read_parquet(work.folder.path / "tables" / "stimuli.parquet")["domain"].eq("").all()
