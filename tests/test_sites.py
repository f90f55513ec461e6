from __future__ import annotations

import pytest

from neurosae.errors import UserError
from neurosae.sites import STREAMS, Site


@pytest.mark.parametrize("stream", STREAMS)
def test_names_round_trip(stream: str) -> None:
    site = Site(7, stream)
    assert Site.parse(str(site)) == site
    assert Site.parse(f"7.{stream}") == site


def test_naming_schemes_agree() -> None:
    expected = Site(15)
    assert {Site.parse(n) for n in ("15", 15, "blocks.15.hook_resid_post", "model.layers.15.output")} == {expected}


@pytest.mark.parametrize("name", ["", "-1", "blocks.3.hook_z", "layers", "3.nothing", "blocks.x.hook_resid_post"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UserError):
        Site.parse(name)


def test_a_block_beyond_the_model_is_refused() -> None:
    with pytest.raises(UserError, match="0 to 29"):
        Site(30).check(30)
