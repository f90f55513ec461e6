"""Findings about a dictionary in words."""

from __future__ import annotations

import pandas as pd


def of_exclusive_latents(stimuli: str, exclusive: pd.DataFrame) -> str:
    """How many latents fire in one condition only; see `neurosae.dictionary.specificity.exclusive_latents`."""
    counts = ", ".join(
        f"{row['condition']} {row['exclusive']} (by chance {row['expected']:.1f})"
        for row in exclusive.to_dict("records")
    )
    return f"Latents that fire in one condition of '{stimuli}' only: {counts}."


def of_members(completeness: pd.DataFrame) -> str:
    """How many members of each list have a latent of their own.

    Examples
    --------
    >>> row = {"list": "months", "dedicated": 6, "members": 12, "share": 0.5, "ci_low": 0.25, "ci_high": 0.75}
    >>> of_members(pd.DataFrame([row]))
    'Members with a latent of their own, on held-out sentences: months 6 of 12 (0.50 [0.25, 0.75]).'
    """
    known = ", ".join(
        f"{row['list']} {row['dedicated']} of {row['members']} "
        f"({row['share']:.2f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}])"
        for row in completeness.to_dict("records")
    )
    return f"Members with a latent of their own, on held-out sentences: {known}."


def of_separation(separation: pd.DataFrame) -> str:
    """How separate the conditions are in each space.

    Examples
    --------
    >>> of_separation(pd.DataFrame({"space": ["neurons", "latents"], "silhouette": [0.1, 0.25]}))
    'Separation of the conditions (silhouette, 1 is perfect): neurons 0.10, latents 0.25.'
    """
    distances = ", ".join(f"{row['space']} {row['silhouette']:.2f}" for row in separation.to_dict("records"))
    return f"Separation of the conditions (silhouette, 1 is perfect): {distances}."
