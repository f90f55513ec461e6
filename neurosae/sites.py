"""Sites: where in a language model to listen. Naming schemes and block offsets are translated here and nowhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass

from neurosae.errors import UserError

STREAMS = ("resid_pre", "resid_post", "mlp_out", "attn_out")
_TRANSFORMER_LENS = re.compile(r"blocks\.(\d+)\.hook_(\w+)")
_HUGGING_FACE = re.compile(r"(?:\w+\.)*layers\.(\d+)(?:\.output)?")
_SHORT = re.compile(r"(\d+)(?:\.(\w+))?")


@dataclass(frozen=True, order=True)
class Site:
    """A place to listen: one stream of one block.

    Parameters
    ----------
    block : int
        Transformer block, counted from 0.
    stream : {"resid_post", "resid_pre", "mlp_out", "attn_out"}, default "resid_post"
        The residual stream after or before the block, or what its MLP or attention adds.

    Examples
    --------
    >>> str(Site(15))
    'blocks.15.hook_resid_post'
    >>> Site.parse("15.mlp_out")
    Site(block=15, stream='mlp_out')
    >>> Site(15).hidden_state
    16
    """

    block: int
    stream: str = "resid_post"

    def __post_init__(self) -> None:
        if self.stream not in STREAMS:
            raise UserError(f"Unknown stream '{self.stream}'", where="site", allowed=", ".join(STREAMS))
        if self.block < 0:
            raise UserError(f"Block {self.block} is negative", where="site", allowed="blocks from 0")

    def __str__(self) -> str:
        """Name of the hook in TransformerLens."""
        return f"blocks.{self.block}.hook_{self.stream}"

    @property
    def hidden_state(self) -> int | None:
        """Index into Hugging Face's ``hidden_states`` (0 is the embedding), None for what is not in it.

        The last entry of ``hidden_states`` comes after the final norm: it is not the last block's output.
        """
        return {"resid_post": self.block + 1, "resid_pre": self.block}.get(self.stream)

    @classmethod
    def parse(cls, name: str | int) -> Site:
        """Read a site from "15", "15.mlp_out", "blocks.15.hook_resid_post" or "model.layers.15.output".

        Raises
        ------
        UserError
            If the name fits no scheme or names an unknown stream.
        """
        text = str(name)
        if match := _TRANSFORMER_LENS.fullmatch(text):
            return cls(int(match[1]), match[2])
        if match := _HUGGING_FACE.fullmatch(text):
            return cls(int(match[1]))
        if match := _SHORT.fullmatch(text):
            return cls(int(match[1]), match[2] or "resid_post")
        raise UserError(
            f"'{text}' is no site",
            allowed="15, 15.mlp_out, blocks.15.hook_resid_post, model.layers.15",
        )

    def check(self, n_blocks: int) -> Site:
        """Return the site, or say that the language model has no such block."""
        if self.block >= n_blocks:
            raise UserError(f"There is no block {self.block}", where="site", allowed=f"0 to {n_blocks - 1}")
        return self
