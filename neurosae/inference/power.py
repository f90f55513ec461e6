"""How many stimuli a t-test needs, from the noncentral t distribution (Cohen 1988)."""

from __future__ import annotations

import math

from scipy import stats

from neurosae.errors import UserError, unknown_name

DESIGNS = ("pairs", "unpaired")
MOST = 2**30  # pairs; nobody writes more


def power_of(d: float, n: int, *, alpha: float = 0.05, n_tests: int = 1, design: str = "pairs") -> float:
    """Compute the probability that a two-sided t-test finds an effect of size `d`.

    Parameters
    ----------
    d : float
        Effect size in the population: d_z, mean over standard deviation of the pair differences; or Cohen's d for
        unpaired conditions.
    n : int
        Pairs; or stimuli in *each* of two unpaired conditions.
    alpha : float, default 0.05
    n_tests : int, default 1
        Each test is held to alpha / n_tests (Bonferroni).
    design : {'pairs', 'unpaired'}

    Raises
    ------
    UserError
        Unknown design, numbers outside their range.

    Examples
    --------
    >>> round(power_of(0.5, 34), 2)
    0.81
    """
    if design not in DESIGNS:
        raise unknown_name("design", design, DESIGNS)
    if not math.isfinite(d) or n < 2 or not 0 < alpha < 1 or n_tests < 1:
        raise UserError(
            f"d = {d}, n = {n}, alpha = {alpha}, n_tests = {n_tests}",
            allowed="a finite d, n from 2, alpha between 0 and 1, n_tests from 1",
        )
    df, shift = (n - 1, abs(d) * math.sqrt(n)) if design == "pairs" else (2 * n - 2, abs(d) * math.sqrt(n / 2))
    critical = stats.t.isf(alpha / n_tests / 2, df)
    return float(stats.ncf.sf(critical**2, 1, df, shift**2))  # both tails: t^2 has an F distribution


def pairs_needed(d: float, power: float = 0.8, alpha: float = 0.05, n_tests: int = 1, design: str = "pairs") -> int:
    """Compute the smallest number of pairs (or of stimuli per unpaired condition) that reaches a power.

    Parameters
    ----------
    d, alpha, n_tests, design
        As in `power_of`.
    power : float, default 0.8

    Raises
    ------
    UserError
        An effect of 0, or one so small that a billion pairs do not suffice; numbers outside their range.

    Examples
    --------
    >>> pairs_needed(0.5), pairs_needed(0.5, n_tests=10_000), pairs_needed(0.5, design="unpaired")
    (34, 128, 64)
    """
    if not 0 < power < 1:
        raise UserError(f"power is {power}", where="power", allowed="between 0 and 1")
    low, high = 1, 2
    while power_of(d, high, alpha=alpha, n_tests=n_tests, design=design) < power:
        low, high = high, 2 * high
        if high > MOST:
            raise UserError(
                f"An effect of d = {d} needs more than a billion pairs", where="d", allowed="larger effects"
            )
    while high - low > 1:
        middle = (low + high) // 2
        reached = power_of(d, middle, alpha=alpha, n_tests=n_tests, design=design) >= power
        low, high = (low, middle) if reached else (middle, high)
    return high
