"""The layer sweep: contrast, geometry and decoding block by block, and where in the model a concept emerges.

Tables of responses come as a mapping of block to array [S, F]; `EMBEDDING` stands for what enters block 0.

=======================  ====================================================================================
`contrast_by_block`      features in which the contrast is significant, within a block and over all blocks
`region_by_block`        response of a region that was localized on the other half of the items
`rsa_by_block`           model RDMs against the RDM of every block
`decode_by_block`        held-out decoding, with chance corrected over blocks
`emergence`              peak, half rise and the increments between blocks, with intervals over items
`sweep_positions`        contrast and decoding in every block and aligned position
=======================  ====================================================================================
"""

from __future__ import annotations

from neurosae.sweep.contrast import EMBEDDING, block_name, contrast_by_block, region_by_block
from neurosae.sweep.decoding import SELECTIONS, BlockDecoding, decode_by_block
from neurosae.sweep.emergence import Emergence, emergence
from neurosae.sweep.geometry import rsa_by_block
from neurosae.sweep.positions import sweep_positions

__all__ = [
    "EMBEDDING",
    "SELECTIONS",
    "BlockDecoding",
    "Emergence",
    "block_name",
    "contrast_by_block",
    "decode_by_block",
    "emergence",
    "region_by_block",
    "rsa_by_block",
    "sweep_positions",
]
