"""What the layer sweep prints and draws."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from neurosae import plots
from neurosae.sweep import EMBEDDING, Emergence, block_name

Tables = Mapping[str, pd.DataFrame]


def statements(tables: Tables, found: Emergence, alpha: float) -> dict[str, Any]:
    """What the sweep says, as data: where decoding by all neurons emerges and peaks, and what the controls do.

    Returns
    -------
    dict
        `first_above_chance`, `first_above_embeddings` (None where there is none), `half_rise`, `peak`, `increments`
        (the significant ones, as `Emergence.significant`), `bag_of_words`, `flat` (no block differs from the embeddings
        or from its neighbour).
    """
    curve = _of(tables["decoding"], "raw", "all")
    above = curve[curve["p_fwe"] <= alpha]
    differs = found.significant(above["block"].tolist(), alpha)
    better = differs[(differs["against"] == "embeddings") & (differs["increment"] > 0)]
    steps = differs[differs["against"] == "previous"]
    highest = found.curve.loc[found.curve["block"] == found.peak.block, "auroc"].iloc[0]
    words = _of(tables["decoding"], "bag_of_words", "all").iloc[0]
    return {
        "first_above_chance": _record(above, ["block", "auroc", "p_fwe"]),
        "first_above_embeddings": _record(better, ["block", "increment", "low", "high", "p_fwe"]),
        "half_rise": found.half_rise._asdict(),
        "peak": found.peak._asdict() | {"auroc": float(highest)},
        "increments": steps.drop(columns="against").to_dict("records"),
        "bag_of_words": {"auroc": float(words["auroc"]), "p": float(words["p"])},
        "flat": not len(differs),
    }


def sentences(tables: Tables, said: Mapping[str, Any], alpha: float) -> list[str]:
    """The answer in words, and what the controls say."""
    parts = [*_emergence(tables, said, alpha), *_controls(tables, said, alpha), _selected(tables)]
    parts += [_latents(tables)] if (tables["decoding"]["representation"] == "sae").any() else []
    return [*parts, _positions(tables["positions"], alpha)] if "positions" in tables else parts


def by_block(tables: Tables) -> pd.DataFrame:
    """One row per block of neurons: the three measures beside each other."""
    neurons = {name: tables[name][tables[name]["representation"] == "raw"] for name in ("contrast", "region", "rsa")}
    category = neurons["rsa"][neurons["rsa"]["model"] == "category"].set_index("block")
    rows = neurons["contrast"].set_index("block")[["significant", "t"]]
    rows = rows.assign(region=neurons["region"].set_index("block")["effect"], category_r=category["r"])
    for selector in tables["decoding"]["selector"].unique():
        curve = _of(tables["decoding"], "raw", selector).set_index("block")
        rows[f"auroc_{selector}"], rows[f"p_{selector}"] = curve["auroc"], curve["p_fwe"]
    rows.index = pd.Index(["emb" if block == EMBEDDING else str(block) for block in rows.index], name="block")
    return rows.reset_index()


def draw(folder: Path, title: str, tables: Tables, found: Emergence, alpha: float) -> None:
    """The three aligned panels, and the map over positions where there is one."""
    plots.save(plots.layer_sweep(tables, found, title, alpha), folder / "sweep")
    if "positions" in tables:
        plots.save(plots.position_map(tables["positions"], alpha).figure, folder / "positions")


def _emergence(tables: Tables, said: Mapping[str, Any], alpha: float) -> list[str]:
    """Where decoding by all neurons begins, rises and peaks."""
    first, better, peak, half = (said[n] for n in ("first_above_chance", "first_above_embeddings", "peak", "half_rise"))
    if first is None:
        return [f"No block decodes the contrast above chance (all neurons, corrected over blocks, p > {alpha:g})."]
    sentences = [
        f"First above chance at {block_name(first['block'])}: all neurons decode held-out stimuli at AUROC "
        f"{first['auroc']:.2f} (p = {first['p_fwe']:.3f}, largest AUROC over blocks)."
    ]
    if said["flat"]:
        sentences.append(
            "The curve is flat: no block is shown to differ from the token embeddings, nor from its neighbour, so that "
            "nothing is shown to emerge that single words do not give."
        )
    elif better is None:
        sentences.append("No block is shown to be better than the token embeddings, which are words without context.")
    else:
        sentences.append(
            f"First above the token embeddings, which are words without context, at block {better['block']}: "
            f"{better['increment']:+.2f} (95 % {better['low']:+.2f} to {better['high']:+.2f}; max-T p = "
            f"{max(better['p_fwe'], 0.001):.3f})."
        )
    sentences.append(
        f"Peak at {block_name(peak['block'])}, AUROC {peak['auroc']:.2f} (95 % {_range(peak)}; intervals count items "
        "and training)."
    )
    if peak["block"] != EMBEDDING:
        reached = f"{block_name(half['block'])} (95 % {_range(half)})"
        sentences.append(f"Half of the rise from the embeddings to the peak is reached at {reached}.")
    steps = sorted(said["increments"], key=lambda row: row["block"])
    listed = ", ".join(f"{row['increment']:+.2f} at block {row['block']}" for row in steps)
    n_steps = int((tables["increments"]["against"] == "previous").sum())
    sentences.append(f"Steps between neighbouring blocks that are significant: {listed or 'none'} (of {n_steps}).")
    return sentences


def _controls(tables: Tables, said: Mapping[str, Any], alpha: float) -> list[str]:
    """Bag of words, new domains and the model RDMs."""
    words, curve = said["bag_of_words"], _of(tables["decoding"], "raw", "all")
    sentences = [f"Controls: the bag of words decodes at AUROC {words['auroc']:.2f} (p = {words['p']:.3f})."]
    if (curve["n_domains"] > 0).all():
        best = _highest(curve, "new_domains")
        sentences.append(
            f"Domains that were left out: at most {best['new_domains']:.2f}, at {block_name(best['block'])} "
            f"(single domains {best['new_domains_lowest']:.2f} to {best['new_domains_highest']:.2f})."
        )
    rsa = tables["rsa"][tables["rsa"]["representation"] == "raw"]
    best_fits = [_highest(rows, "r") for _, rows in rsa.groupby("model", sort=False)]
    fits = "; ".join(f"{row['model']} {row['r']:.3f} at {block_name(row['block'])}" for row in best_fits)
    category = rsa[(rsa["model"] == "category") & (rsa["p_fwe"] <= alpha)]["block"]
    where = f"from {block_name(category.min())} on, in {len(category)}" if len(category) else "at none"
    sentences.append(f"RSA, highest r: {fits}. The category is significant {where} of {rsa['block'].nunique()} places.")
    return sentences


def _selected(tables: Tables) -> str:
    """The best block of each selector."""
    neurons = tables["decoding"][tables["decoding"]["representation"] == "raw"]
    chosen = neurons[neurons["selector"] != "all"]
    best = [_highest(rows, "auroc") for _, rows in chosen.groupby("selector", sort=False)]
    each = [f"{plots.selector_label(row['selector'])} {row['auroc']:.2f} at {block_name(row['block'])}" for row in best]
    return f"{chosen['k'].iloc[0]} neurons chosen inside the folds, at best: {'; '.join(each)}."


def _latents(tables: Tables) -> str:
    rows = tables["decoding"][tables["decoding"]["representation"] == "sae"]
    each = [f"block {row.block}, {plots.selector_label(row.selector)} {row.auroc:.2f}" for row in rows.itertuples()]
    return f"SAE latents: {'; '.join(each)}."


def _positions(table: pd.DataFrame, alpha: float) -> str:
    used = table[table["reason"] == ""]
    best, n = _highest(used, "auroc"), int((used["p_fwe"] <= alpha).sum())
    return (
        f"Positions (aligned to {table['align'].iloc[0]}): {n} of {len(used)} cells decode above chance (largest AUROC "
        f"over cells), best of all {block_name(best['block'])} at position {best['position']:+d}, {best['auroc']:.2f}."
    )


def _of(decoding: pd.DataFrame, representation: str, selector: str) -> pd.DataFrame:
    return decoding[(decoding["representation"] == representation) & (decoding["selector"] == selector)]


def _highest(rows: pd.DataFrame, column: str) -> pd.Series:
    return rows.iloc[int(rows[column].to_numpy().argmax())]


def _record(rows: pd.DataFrame, columns: list[str]) -> dict[str, Any] | None:
    """The row with the lowest block, as plain numbers."""
    first = rows.sort_values("block")[columns].head(1)
    return None if first.empty else {name: first[name].item() for name in columns}


def _range(place: Mapping[str, int]) -> str:
    low, high = (block_name(place[end]).removeprefix("block ") for end in ("low", "high"))
    return low if low == high else f"{low} to {high}"
