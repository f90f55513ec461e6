"""What kind of dictionary is an SAE? What it knows of a stimulus set and of lists of known members."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from neurosae.capture import capture
from neurosae.corpora import read_texts
from neurosae.dictionary import words
from neurosae.dictionary.census import census, telling_words
from neurosae.dictionary.completeness import (
    background_rates,
    completeness,
    frequency_relation,
    ordinary_texts,
    read_background,
    read_mentions,
    summary,
)
from neurosae.dictionary.maps import cosine_distances, require_umap, separation, shown_latents, umap_positions
from neurosae.dictionary.members import MemberList, load_all
from neurosae.dictionary.specificity import exclusive_latents, specificity
from neurosae.errors import UserError, at_least
from neurosae.files import write_table
from neurosae.models import LanguageModel
from neurosae.responses import Pooling
from neurosae.sae import loading
from neurosae.sae.encoding import encode
from neurosae.stimuli import StimulusSet
from neurosae.stimuli import load as load_stimuli


@dataclass(frozen=True)
class SaeDescription:
    """What kind of dictionary an SAE is.

    Attributes
    ----------
    sae, language_model, site : str
    n_latents : int
    stimuli : str
        Name of the stimulus set.
    left_out : dict of str to int
        Stimuli without a value, by reason.
    specificity : DataFrame
        Every latent in every condition; see `neurosae.dictionary.specificity.specificity`.
    members : DataFrame
        Every member and its latent, see `neurosae.dictionary.completeness.dedicated_latents`; `list`; `sae` ("trained",
        "untrained"); where a corpus was counted `count` and `per_million`.
    completeness : DataFrame
        One row per `sae` and `list`: `n_latents`, `members`, `dedicated`, `share` with `ci_low` and `ci_high`,
        `mean_f1`, `chance`; where a corpus was counted the rank correlation of F1 and frequency, `frequency_rho`,
        `frequency_p`, `frequency_valid`, `frequency_reason`.
    telling_words : DataFrame
        Words that set the conditions apart; see `neurosae.dictionary.census.telling_words`.
    census : DataFrame or None
        How often the corpus has members and keywords, see `neurosae.dictionary.census.census`; None without a corpus.
    keywords : tuple of str
        Those of the census that are about the stimulus set.
    separation : DataFrame
        One row per `space` ("neurons", "latents": stimuli by condition; "decoder": the latents that prefer each
        condition), with the fields of `neurosae.dictionary.maps.Separation`.
    maps : DataFrame or None
        `space`, `x`, `y` and `label` of every point; None where no maps were asked for.
    """

    sae: str
    language_model: str
    site: str
    n_latents: int
    stimuli: str
    left_out: dict[str, int]
    specificity: pd.DataFrame
    members: pd.DataFrame
    completeness: pd.DataFrame
    telling_words: pd.DataFrame
    census: pd.DataFrame | None
    keywords: tuple[str, ...]
    separation: pd.DataFrame
    maps: pd.DataFrame | None

    @property
    def exclusive(self) -> pd.DataFrame:
        """How many latents fire in one condition only, and how many by chance."""
        return exclusive_latents(self.specificity)

    @property
    def most_specific(self) -> pd.DataFrame:
        """The five latents of each condition with the largest AUROC; the best of many, hence optimistic."""
        best = self.specificity[self.specificity["valid"]].sort_values("auroc", ascending=False, kind="stable")
        best = best.groupby("condition", observed=True, sort=False).head(5)
        return best.sort_values("condition", kind="stable")

    @property
    def frequency(self) -> dict[str, Any] | None:
        """Rank correlation of F1 and frequency over the members of all lists; None without a corpus."""
        trained = self.members[self.members["sae"] == "trained"]
        return None if self.census is None else _relation(trained)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is exclusive, known and separate, a sentence each."""
        return (
            words.of_exclusive_latents(self.stimuli, self.exclusive),
            words.of_members(self.completeness[self.completeness["sae"] == "trained"]),
            words.of_separation(self.separation),
        )

    def as_dict(self) -> dict[str, Any]:
        """The short tables as plain data."""
        return {
            "exclusive": self.exclusive.to_dict("records"),
            "completeness": self.completeness.to_dict("records"),
            "separation": self.separation.to_dict("records"),
        }

    def save(self, folder: str | Path) -> None:
        """Write every table as CSV and Parquet; of `specificity`, the latents that fire."""
        fires = self.specificity["reason"] != "silent"
        tables = {
            "specificity": self.specificity[fires],
            "exclusive": self.exclusive,
            "completeness": self.completeness,
            "members": self.members,
            "telling_words": self.telling_words,
            "census": self.census,
            "separation": self.separation,
            "maps": self.maps,
        }
        for name, table in tables.items():
            if table is not None:
                write_table(Path(folder), name, table)


def describe_sae(
    sae: str = loading.DEFAULT,
    *,
    stimuli: StimulusSet | str | Path = "success",
    pooling: Pooling = "mean",
    members: Sequence[str] = ("all",),
    untrained: bool = False,
    background: int | None = None,
    corpus: str | Path | None = None,
    texts: int | None = None,
    keywords: Sequence[str] | None = None,
    umap: bool = False,
    map_latents: int = 3000,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    device_map: str | None = None,
) -> SaeDescription:
    """Describe an SAE by latents specific to conditions, by the members it knows, and by how separate conditions are.

    Parameters
    ----------
    sae : str
        A bundled name, a file or folder, a hub name.
    stimuli : StimulusSet, str or Path, default "success"
        A stimulus set, the name of a built-in one, or a YAML file.
    pooling : {"mean", "max", "last", "target", "prompt_end"}, default "mean"
        Over the tokens of a stimulus; see `neurosae.responses.Responses.pool`.
    members : sequence of str, default ("all",)
        Lists of known members: colours, countries, elements, months, us_states, YAML files, or all that ship; see
        `neurosae.dictionary.members`.
    untrained : bool, default False
        Look for members in an untrained SAE of that L0, too.
    background : int, optional
        Ordinary texts that tell which latents are rare, 2 or more. Default: all that ship.
    corpus : str or Path, optional
        Text to count words in. Default: nothing is counted.
    texts : int, optional
        Count in the first so many texts only. Default: all.
    keywords : sequence of str, optional
        Words to count. Default: those that differ most between conditions.
    umap : bool, default False
        Maps of stimuli and latents, too; needs the extra 'maps'.
    map_latents : int, default 3000
        Latents in the map of decoder directions.
    model : str, optional
        Default: the language model that the SAE names.
    device, dtype, device_map
        See `neurosae.models.load`.

    Raises
    ------
    UserError
        Unknown names, files that cannot be read, a number out of range, words to count without a corpus.

    References
    ----------
    Templeton et al. (2024), Scaling Monosemanticity; Bricken et al. (2023), Towards monosemanticity.

    Examples
    --------
    >>> found = describe_sae(stimuli="continuation", members=["months"])  # doctest: +SKIP
    >>> found.exclusive, found.completeness, found.separation  # doctest: +SKIP
    """
    asked = {"texts": texts, "background": background}
    at_least(2, **{name: number for name, number in asked.items() if number is not None})
    if corpus is None:
        _refuse_without_corpus(keywords=keywords, texts=texts)
    else:
        next(iter(read_texts(corpus)), None)  # a missing file is told before the work, not after
    if umap:
        require_umap()
    lists = load_all(members)
    chosen = stimuli if isinstance(stimuli, StimulusSet) else load_stimuli(stimuli)
    loaded, language_model = loading.load_pair(sae, model=model, device=device, dtype=dtype, device_map=device_map)
    concept = _read_concept(chosen, loaded, language_model, pooling)
    specific = specificity(concept.latents, concept.labels, blocks_S=_blocks(concept.groups))
    found = _find_members(loaded, language_model, lists, background, untrained)
    telling = telling_words(concept.stimuli.table["text"].tolist(), concept.labels.tolist())
    counted = tuple(keywords or telling["word"].tolist())
    counts = None
    if corpus is not None:
        names = [member for each in lists for member in each.members]
        counts = census(itertools.islice(read_texts(corpus), texts), [*names, *counted])
        found = found.join(counts.set_index("keyword")[["count", "per_million"]], on="member")
    separate, maps = _separations(concept, specific, loaded, map_latents, umap)
    return SaeDescription(
        sae=sae,
        language_model=language_model.name,
        site=str(loading.site_of(loaded)),
        n_latents=loaded.cfg.d_sae,
        stimuli=chosen.name,
        left_out=concept.left_out,
        specificity=specific,
        members=found,
        completeness=_by_list(found, loaded.cfg.d_sae),
        telling_words=telling,
        census=counts,
        keywords=counted,
        separation=separate,
        maps=maps,
    )


def _refuse_without_corpus(**asked: Any) -> None:
    for name, value in asked.items():
        if value is not None:
            raise UserError(f"{name} without a corpus", where=name, suggestion="Add a corpus, or leave it out")


@dataclass(frozen=True)
class _Concept:
    """A stimulus set as both representations see it, without stimuli that have no value."""

    stimuli: StimulusSet
    labels: np.ndarray
    neurons: Any
    latents: Any
    left_out: dict[str, int]

    @property
    def groups(self) -> np.ndarray:
        return self.stimuli.groups()


def _read_concept(stimuli: StimulusSet, sae: Any, language_model: LanguageModel, pooling: Pooling) -> _Concept:
    site = loading.site_of(sae)
    responses = capture(language_model, stimuli.table, [site], chat=stimuli.chat)[site]
    neurons, latents = responses.pool(pooling), encode(sae, responses, "latents").pool(pooling)
    keep_S = neurons.valid_S
    kept = stimuli.subset(keep_S)
    labels = kept.table[list(kept.factors)].agg("/".join, axis=1).to_numpy(dtype=object)
    used = np.flatnonzero(keep_S)
    left_out = dict(Counter(map(str, neurons.reason_S[~keep_S])))
    return _Concept(kept, labels, neurons.values_SF[used], latents.values_SF[used], left_out)


def _blocks(groups_S: np.ndarray) -> np.ndarray:
    """Groups as blocks in which conditions may be shuffled; stimuli without others share one block."""
    alone_S = np.bincount(groups_S)[groups_S] == 1
    return np.where(alone_S, -1, groups_S)


def _find_members(
    sae: Any, language_model: LanguageModel, lists: Sequence[MemberList], background: int | None, untrained: bool
) -> pd.DataFrame:
    """The latent of every member, in the SAE and, if asked for, in its untrained control."""
    site = loading.site_of(sae)
    ordinary = read_background(language_model, ordinary_texts(lists, background), site)
    saes = {"trained": sae}
    if untrained:
        saes["untrained"] = loading.untrained_like(sae, torch.from_numpy(ordinary[0]))
    mentions = {each.name: read_mentions(language_model, each, site) for each in lists}
    tables = []
    for kind, each in saes.items():
        rates_2F = background_rates(each, ordinary)
        tables += [completeness(each, read, rates_2F).assign(list=name, sae=kind) for name, read in mentions.items()]
    return pd.concat(tables, ignore_index=True)


def _by_list(members: pd.DataFrame, n_latents: int) -> pd.DataFrame:
    """Completeness of each list, with the frequency of its members where a corpus was counted."""
    rows = []
    for (kind, name), group in members.groupby(["sae", "list"], sort=False):
        row: dict[str, Any] = {"sae": kind, "list": name, "n_latents": n_latents, **summary(group)}
        if "per_million" in group:
            relation = _relation(group)
            row |= {f"frequency_{key}": relation[key] for key in ("rho", "p", "valid", "reason")}
        rows.append(row)
    return pd.DataFrame(rows)


def _relation(members: pd.DataFrame) -> dict[str, Any]:
    return frequency_relation(members["f1"].to_numpy(), members["per_million"].to_numpy())


def _separations(
    concept: _Concept, specific: pd.DataFrame, sae: Any, map_latents: int, umap: bool
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """How separate the conditions are for neurons, latents and decoder directions; maps of the same distances."""
    latents, preferred = shown_latents(specific, sae.cfg.d_sae, map_latents)
    directions = sae.W_dec[latents.tolist()].detach().float().cpu().numpy()
    points = {
        "neurons": (cosine_distances(concept.neurons), concept.labels),
        "latents": (cosine_distances(concept.latents), concept.labels),
        "decoder": (cosine_distances(directions, centred=False), preferred),
    }
    rows = []
    for space, (distance, labels) in points.items():
        some = np.flatnonzero(labels != "")
        groups = None if space == "decoder" else concept.groups
        rows.append({"space": space, **asdict(separation(distance[np.ix_(some, some)], labels[some], groups))})
    if not umap:
        return pd.DataFrame(rows), None
    maps = []
    for space, (distance, labels) in points.items():
        x, y = umap_positions(distance).T
        maps.append(pd.DataFrame({"space": space, "x": x, "y": y, "label": labels.astype(str)}))
    return pd.DataFrame(rows), pd.concat(maps, ignore_index=True)
