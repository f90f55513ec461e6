"""Figures look as they did, no text covers another, and nothing is left behind.

The pictures in ``tests/images`` are compared with a tolerance. After a change that is wanted, draw them anew, and look
at them: ``python tests/test_plot_images.py``.
"""

from __future__ import annotations

import inspect
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text

sys.path.insert(0, str(Path(__file__).parent))
import plot_gallery as gallery
from plot_gallery import EXTREMES, FIGURES

from neurosae import plots
from neurosae.errors import UserError
from neurosae.plots.style import MARKERS
from neurosae.steering.causal import CausalEffect

IMAGES = Path(__file__).parent / "images"
DPI = 50
TOLERANCE = 3.0  # root mean square of grey values; a letter that moves by half a pixel is below, a dot is not


def draw(name: str) -> Figure:
    """Draw one figure with Matplotlib's own defaults and the font that it ships."""
    mpl.rcdefaults()
    return (FIGURES | EXTREMES)[name]().figure


def picture(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=DPI, bbox_inches="tight", metadata={"Software": None})
    return path


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    with mpl.rc_context():
        yield
    plt.close("all")


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_looks_as_it_did_and_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    mpl.rcdefaults()
    settings, state = dict(mpl.rcParams), np.random.get_state()[1]  # noqa: NPY002 - the global one must not move
    found = picture(draw(name), tmp_path / f"{name}.png")
    assert compare_images(str(IMAGES / f"{name}.png"), str(found), TOLERANCE) is None
    assert dict(mpl.rcParams) == settings
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_a_changed_figure_is_caught(tmp_path: Path) -> None:
    """One of three claims moves by 0.03; one of 24 stimuli changes sides."""
    mpl.rcdefaults()
    moved = gallery.claims(["RSA beats maximum activation", "SAE beats neurons", "t beats random"])
    moved.loc[0, ["delta", "ci_low", "ci_high"]] += 0.03
    swapped = gallery.decisions(["art", "sport"])
    swapped.loc[0, "side"] *= -1
    for name, ax in (
        ("claims", plots.claims(moved)),
        ("stimulus_activation", plots.stimulus_activation(swapped, "success", "failure")),
    ):
        found = picture(ax.figure, tmp_path / f"{name}.png")
        assert compare_images(str(IMAGES / f"{name}.png"), str(found), TOLERANCE) is not None


OF_ONE_STUDY = ("neurosae.plots.styles",)
"""Figures of one command; the tests of this command look at them."""


def test_every_function_that_draws_has_a_picture() -> None:
    public = {name: each for name in plots.__all__ if inspect.isfunction(each := getattr(plots, name))}
    drawing = {name for name, each in public.items() if each.__annotations__.get("return") == "Axes"}
    shared = {name for name in drawing if public[name].__module__ not in OF_ONE_STUDY}
    assert len(shared) > 20 and shared <= set(FIGURES)


def seen_texts(figure: Figure) -> list[Text]:
    """Every text that is drawn; labels of ticks beyond the limits exist, but are not."""
    figure.canvas.draw()
    hidden = set()
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        every, drawn = (*axis.majorTicks, *axis.minorTicks), axis._update_ticks()
        hidden |= {id(label) for tick in set(every) - set(drawn) for label in (tick.label1, tick.label2)}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in texts if id(text) not in hidden]


def turned_too_close(a: Text, b: Text) -> bool:
    """Whether the lines of two texts that are turned alike are nearer than their letters are high."""
    angle, size = a.get_rotation(), a.get_fontsize() * a.figure.dpi / 72
    return abs(a.get_window_extent().x1 - b.get_window_extent().x1) * np.sin(np.radians(angle)) < 0.9 * size


def covered(texts: list[Text]) -> list[tuple[str, str]]:
    """Pairs of texts that share more than a pixel."""
    boxes = [Text.get_window_extent(text).padded(-1) for text in texts]
    left, low, right, high = np.array([box.extents for box in boxes]).T
    meet = (left < right[:, None]) & (left[:, None] < right) & (low < high[:, None]) & (low[:, None] < high)
    pairs = [(texts[a], texts[b]) for a, b in np.argwhere(np.triu(meet, 1))]
    return [
        (a.get_text(), b.get_text())
        for a, b in pairs
        if a.get_rotation() % 90 == 0 or a.get_rotation() != b.get_rotation() or turned_too_close(a, b)
    ]


@pytest.mark.parametrize("name", [*FIGURES, *EXTREMES])
@pytest.mark.filterwarnings("error")
def test_no_text_covers_another_and_every_figure_says_n(name: str) -> None:
    texts = seen_texts(draw(name))
    assert covered(texts) == []
    words = " ".join(text.get_text() for text in texts)
    if name in FIGURES:
        assert re.search(r"\bn\b|\d+ of \d+|\d latents|\d x \d", words)


def test_functions_draw_into_the_axes_given() -> None:
    figure, axes = plt.subplots(2, 2)
    table = gallery.variants()
    assert plots.specification_curve(table, axes[0, 0]) is axes[0, 0]
    assert plots.method_comparison(table, 4, axes[0, 1]) is axes[0, 1]
    assert plots.score_against_k(table, "sae", axes[1, 0]) is axes[1, 0]
    assert plots.stimulus_activation(gallery.decisions(["art"]), "a", "b", ax=axes[1, 1]) is axes[1, 1]
    figure.canvas.draw()
    curve, choices = axes[0, 0].get_position(original=False), figure.axes[-1].get_position(original=False)
    assert plt.fignum_exists(figure.number) and len(plt.get_fignums()) == 1
    assert choices.y1 <= curve.y0, "the choices stand below the scores"
    assert choices.y0 >= axes[1, 0].get_position().y1, "and both inside the place that was given"


def _without_doses() -> CausalEffect:
    effect = gallery.effect([0.9])
    return replace(effect, table=effect.table.iloc[:0])


NOTHING = pd.DataFrame(
    columns=["selector", "representation", "k", "auroc", "auroc_ci_low", "auroc_ci_high", "auroc_chance_low"]
)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (plots.method_comparison, (NOTHING, 8), "no column auroc_chance_high"),
        (plots.method_comparison, (gallery.variants(["t"], (1,)).iloc[:1], 8), "no such rows"),
        (plots.specification_curve, (gallery.variants().iloc[:0],), "nothing to draw"),
        (plots.score_against_k, (gallery.variants(), "embedding"), "score against k, embedding: there is nothing"),
        (plots.selection_overlap, (gallery.features(["t"]), "sae", 7), "k = 7: there is nothing"),
        (plots.stimulus_activation, (gallery.decisions(["a"]).iloc[:0], "a", "b"), "nothing to draw"),
        (plots.claims, (pd.DataFrame(),), "no column claim, delta"),
        (plots.retrieval, (gallery.card(["t"]).assign(discovery_ap=np.nan),), "discovery_ap by method"),
        (plots.target_score, (pd.DataFrame(), None), "no column selector"),
        (plots.block_profile, (gallery.profile(0),), "nothing to draw"),
        (plots.contrast_map, (gallery.contrast_map(), 77), "no feature 77. Allowed: 0 to 4"),
        (plots.firing_rates, (gallery.rates(), "clam"), "Did you mean 'calm'"),
        (plots.firing_rates, (gallery.rates().assign(valid=False), "calm"), "fire often enough: there is nothing"),
        (plots.completeness_by_frequency, (gallery.members([]),), "nothing to draw"),
        (plots.scaling_curve, (gallery.cells([512]), "fvo", "FVU"), "no column fvo"),
        (plots.point_map, (np.zeros((2, 2)), np.array(["a"]), "", gallery.APART), "1 labels for 2 points"),
        (plots.transfer_map, (gallery.transfer([]), "agent"), "nothing to draw"),
        (plots.l0_histogram, (np.zeros(5, dtype=int),), "no token was measured"),
        (plots.dose_response, (_without_doses(),), "nothing to draw"),
        (plots.second_order_matrix, (pd.DataFrame(),), "no RDM is compared"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_a_figure_is_made(function, arguments, message) -> None:
    with pytest.raises(UserError, match=message):
        function(*arguments)
    assert not plt.get_fignums()


SEEN_BY = {
    "everybody": np.eye(3),
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""On linear RGB, at full severity: Machado, Oliveira and Fernandes (2009), IEEE TVCG 15."""


def cielab(colour: str, seen_by: np.ndarray) -> np.ndarray:
    """L*, a* and b* (D65) of a colour as it is seen."""
    srgb = np.array(to_rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = to_xyz @ np.clip(seen_by @ linear, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("reader", SEEN_BY)
def test_colours_differ_for_every_reader_and_markers_too(reader: str) -> None:
    """A difference of 2.3 is just noticeable (Mahy et al. 1994); grey 0.5 beside the green was at 9.7."""
    seen = [cielab(colour, np.array(SEEN_BY[reader])) for colour in plots.PALETTE.values()]
    nearest = min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2))
    assert nearest > 15
    assert len(set(MARKERS.values())) == len(plots.PALETTE) and MARKERS.keys() == plots.PALETTE.keys()


SAVED = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from plot_gallery import FIGURES
from neurosae import plots
for name in ("specification_curve", "stimulus_activation", "rdm_heatmap"):
    plots.save(FIGURES[name]().figure, Path(sys.argv[2]) / name)
"""


def test_another_process_writes_the_same_svg(tmp_path: Path) -> None:
    for name in ("specification_curve", "stimulus_activation", "rdm_heatmap"):
        plots.save(draw(name), tmp_path / "here" / name)
    arguments = [sys.executable, "-c", SAVED, str(Path(__file__).parent), str(tmp_path / "there")]
    subprocess.run(arguments, check=True, env=os.environ | {"MPLBACKEND": "Agg"}, timeout=120)
    here = {path.name: path.read_bytes() for path in (tmp_path / "here").glob("*.svg")}
    assert len(here) == 3
    assert here == {path.name: path.read_bytes() for path in (tmp_path / "there").glob("*.svg")}


if __name__ == "__main__":
    mpl.use("Agg")
    for each in FIGURES:
        picture(draw(each), IMAGES / f"{each}.png")
        plt.close("all")
