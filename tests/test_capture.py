from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from neurosae.capture import SINK, TEXT, capture, make_prompts
from neurosae.errors import UserError
from neurosae.forward import batches
from neurosae.models import LanguageModel, surprisal
from neurosae.responses import Responses
from neurosae.sites import STREAMS, Site
from tests.conftest import TEXTS


def hidden_states(language_model: LanguageModel, text: str) -> tuple[torch.Tensor, ...]:
    ids = [language_model.sink_token, *language_model.tokenizer(text, add_special_tokens=False).input_ids]
    with torch.inference_mode():
        output = language_model.base(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    return output.hidden_states


@pytest.fixture(scope="module")
def captured(language_model: LanguageModel) -> dict[Site, Responses]:
    sites = [Site(15), Site(16, "resid_pre"), Site(0, "resid_pre"), Site(3, "mlp_out"), Site(3, "attn_out"), Site(3)]
    sites.append(Site(3, "resid_pre"))
    return capture(language_model, TEXTS, sites, batch_size=2)


@pytest.mark.parametrize("site", [Site(15), Site(16, "resid_pre"), Site(0, "resid_pre")])
def test_every_text_alone_gives_the_captured_rows(
    language_model: LanguageModel, captured: dict[Site, Responses], site: Site
) -> None:
    """Padding, batching and sorting leave no trace; the block offset is right."""
    responses = captured[site]
    assert site.hidden_state is not None
    for row, text in enumerate(TEXTS):
        expected = hidden_states(language_model, text)[site.hidden_state][0].numpy()
        rows = responses.values[responses.tokens["stimulus"] == row]
        assert rows.shape == expected.shape
        scale = np.abs(expected[1:]).max()
        np.testing.assert_allclose(rows[1:], expected[1:], atol=1e-4 * scale)


def test_the_streams_of_a_block_add_up(captured: dict[Site, Responses]) -> None:
    parts = [captured[Site(3, stream)].values for stream in ("resid_pre", "attn_out", "mlp_out")]
    total = captured[Site(3)].values
    np.testing.assert_allclose(sum(parts), total, atol=1e-4 * np.abs(total).max())
    assert set(STREAMS) == {"resid_pre", "resid_post", "mlp_out", "attn_out"}


def test_sites_share_their_tokens_and_nothing_is_overwritten(captured: dict[Site, Responses]) -> None:
    first, second = captured[Site(15)], captured[Site(16, "resid_pre")]
    np.testing.assert_array_equal(first.values, second.values)
    assert first.values is not second.values
    assert not np.allclose(captured[Site(3)].values, first.values)


def test_the_sink_is_masked_and_its_norm_is_huge(captured: dict[Site, Responses]) -> None:
    responses = captured[Site(15)]
    sink = (responses.tokens["role"] == SINK).to_numpy()
    assert sink.sum() == len(TEXTS)
    assert not responses.tokens["clean"][sink].any()
    norms = np.linalg.norm(responses.values, axis=1)
    assert norms[sink].min() > 50 * np.median(norms[~sink])
    assert norms[responses.tokens["clean"]].max() < 10 * np.median(norms[~sink])


def test_including_sinks_changes_the_mean(captured: dict[Site, Responses]) -> None:
    responses = captured[Site(15)]
    clean, everything = responses.pool("mean"), responses.pool("mean", include_sinks=True)
    assert np.linalg.norm(everything.dense()) > 5 * np.linalg.norm(clean.dense())


@pytest.mark.parametrize("batch_size", [2, 5])
def test_batch_size_does_not_matter(language_model: LanguageModel, batch_size: int) -> None:
    alone = capture(language_model, TEXTS, [Site(15)], batch_size=1)[Site(15)].pool().dense()
    together = capture(language_model, TEXTS, [Site(15)], batch_size=batch_size)[Site(15)].pool().dense()
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5 * np.abs(alone).max())


def test_masks_of_several_sites_combine_by_union(
    language_model: LanguageModel, captured: dict[Site, Responses]
) -> None:
    alone = capture(language_model, TEXTS, [Site(15)])[Site(15)].tokens["clean"].to_numpy()
    together = captured[Site(15)].tokens["clean"].to_numpy()
    assert (together <= alone).all()
    assert together.sum() < alone.sum()


def test_batches_hold_every_text_once_sorted_by_length() -> None:
    ids = [[0] * n for n in (5, 2, 9, 2, 7)]
    plan = list(batches(ids, 2))
    assert sorted(row for rows in plan for row in rows) == list(range(5))
    lengths = [len(ids[row]) for rows in plan for row in rows]
    assert lengths == sorted(lengths)


def test_target_spans_become_tokens(language_model: LanguageModel) -> None:
    text = "The old bridge held at last."
    start = text.index("bridge held")
    table = pd.DataFrame({"text": [text, text], "target_start": [start, pd.NA], "target_end": [start + 11, pd.NA]})
    prompts = make_prompts(language_model, table)
    words = [
        language_model.tokenizer.decode([i]).strip()
        for i, t in zip(prompts[0].ids, prompts[0].target, strict=True)
        if t
    ]
    assert words == ["bridge", "held"]
    assert not any(prompts[1].target)


def test_under_a_chat_template_only_the_text_is_clean(language_model: LanguageModel) -> None:
    table = pd.DataFrame({"text": TEXTS[:2]})
    responses = capture(language_model, table, [Site(2)], chat={"system": "Answer briefly."})[Site(2)]
    for row, text in enumerate(TEXTS[:2]):
        tokens = responses.tokens[responses.tokens["stimulus"] == row]
        assert "".join(tokens.loc[tokens["role"] == TEXT, "token"]).strip() == text
        assert "Answer" in "".join(tokens["token"])
        assert (tokens.loc[tokens["clean"], "role"] == TEXT).all()
    last = responses.pool("prompt_end").dense()[0]
    np.testing.assert_allclose(last, responses.values[responses.tokens["stimulus"] == 0][-1])


def test_a_text_longer_than_the_context_is_refused(language_model: LanguageModel) -> None:
    with pytest.raises(UserError, match="more than the context"):
        make_prompts(language_model, pd.DataFrame({"text": ["word " * (language_model.context + 1)]}))


def test_a_site_that_is_not_there_is_refused(language_model: LanguageModel) -> None:
    with pytest.raises(UserError, match="no block 30"):
        capture(language_model, TEXTS[:1], [Site(30)])


def test_surprisal_is_that_of_the_model(language_model: LanguageModel) -> None:
    plain, odd = surprisal(language_model, ["The cat sat on the mat.", "Mat the on sat cat the."])
    assert 0 < plain < odd
    ids = torch.tensor([[language_model.sink_token, *language_model.tokenizer("It failed.").input_ids]])
    with torch.inference_mode():
        expected = language_model.plain(input_ids=ids, labels=ids).loss.item()
    assert surprisal(language_model, ["It failed."])[0] == pytest.approx(expected, rel=1e-5)


def test_responses_survive_the_disk(captured: dict[Site, Responses], tmp_path: Path) -> None:
    responses = captured[Site(15)]
    responses.save(tmp_path / "r")
    again = Responses.load(tmp_path / "r")
    assert isinstance(again.values, np.memmap)
    np.testing.assert_array_equal(again.values, responses.values)
    pd.testing.assert_frame_equal(again.tokens, responses.tokens)
    assert again.source == responses.source


def test_a_file_cut_short_is_told(captured: dict[Site, Responses], tmp_path: Path) -> None:
    captured[Site(15)].save(tmp_path / "r")
    path = tmp_path / "r" / "values.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="cut short"):
        Responses.load(tmp_path / "r")


@pytest.mark.parametrize("stream", STREAMS)
def test_the_plain_model_is_heard_where_the_bridge_has_its_hook(language_model: LanguageModel, stream: str) -> None:
    site, text = Site(4, stream), TEXTS[0]
    ids = torch.tensor([[language_model.sink_token, *language_model.tokenizer(text).input_ids]])
    with torch.inference_mode():
        _, cache = language_model.bridge.run_with_cache(ids, names_filter=lambda name: name == str(site))
    expected = cache[str(site)][0].numpy()
    values = capture(language_model, [text], [site])[site].values
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_the_plain_model_shares_its_weights_with_the_bridge(language_model: LanguageModel) -> None:
    ours = {p.data_ptr() for p in language_model.plain.parameters()}
    assert ours <= {p.data_ptr() for p in language_model.bridge.original_model.parameters()}
