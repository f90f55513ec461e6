"""Log probability of the endings of texts, with and without an intervention, teacher-forced.

What enters the steered block does not depend on the intervention. It is computed once and kept; every intervention
costs the later blocks and the head only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurosae.errors import UserError, unknown_name
from neurosae.forward import batches, component, pad, run_batch
from neurosae.models import LanguageModel
from neurosae.sites import Site
from neurosae.steering.interventions import POSITIONS, Intervention, NothingChanged, Positions, Steered, steering


@contextmanager
def resumed(language_model: LanguageModel, first_block: int, entering: Any) -> Iterator[None]:
    """While the block lasts, the model starts at `first_block`: blocks before it are passed over.

    Parameters
    ----------
    language_model : LanguageModel
    first_block : int
        From 0 (nothing is passed over) to the number of blocks.
    entering : torch.Tensor (batch, positions, d_model), or a tuple that starts with it
        What `first_block` reads: what the block before it returned, in the form in which it did.

    Notes
    -----
    Hooks on what a block returns still fire, also on the blocks that are passed over.
    """
    with ExitStack() as undo:
        for block in range(first_block):
            module, _ = component(language_model, Site(block))
            before = module.__dict__.get("forward")
            module.forward = lambda *_arguments, **_options: entering
            if before is None:
                undo.callback(module.__dict__.pop, "forward")
            else:  # libraries that spread a model over devices have put their own there
                undo.callback(setattr, module, "forward", before)
        yield


class Endings:
    """Endings after their beginnings, ready to be scored under interventions at one site.

    Parameters
    ----------
    language_model : LanguageModel
    ids : sequence of sequences of int
        Token ids of whole texts, the sink token in front.
    starts : sequence of int
        Where each ending begins, from 1; at least one token belongs to it.
    site : Site
        Where it may be steered. What enters its block is held in memory: texts x tokens x d_model values.
    batch_size : int, default 16
        Texts at once; the logits of a batch's endings are held.

    Raises
    ------
    UserError
        No text, an ending without a token, a batch size below 1.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        ids: Sequence[Sequence[int]],
        starts: Sequence[int],
        site: Site,
        *,
        batch_size: int = 16,
    ) -> None:
        if not len(ids) or batch_size < 1:
            raise UserError(f"{len(ids)} texts in batches of {batch_size}", where="endings", allowed="1 or more")
        for row, (text, start) in enumerate(zip(ids, starts, strict=True)):
            if not 1 <= start < len(text):
                raise UserError(f"The ending of text {row} has no token", where="endings")
        self.language_model, self.site = language_model, site.check(language_model.n_blocks)
        self.ids, self.starts = [list(row) for row in ids], list(starts)
        self.first_block = site.block + (site.stream == "resid_post")
        self._plan = list(batches(self.ids, batch_size))
        self._entering = [self._before(rows) for rows in self._plan]

    @property
    def lengths_N(self) -> NDArray[np.int64]:
        """Number of tokens of every ending."""
        return np.array([len(row) - start for row, start in zip(self.ids, self.starts, strict=True)], dtype=np.int64)

    def log_p(
        self, intervention: Intervention | None = None, positions: Positions = "both"
    ) -> tuple[NDArray[np.float64], float]:
        """Length-normalised log probability of every ending, and how large the intervention was.

        Parameters
        ----------
        intervention : Intervention, optional
            None: the model as it is.
        positions : {"prompt", "generated", "both"}, default "both"
            Which tokens are steered: the beginning without the sink token, the ending, or both. Outliers never are.

        Returns
        -------
        log_p_N : float64 ndarray of shape (N,)
            Mean log probability per token of the ending, nats.
        norm : float
            `Steered.norm`; 0 without an intervention, or with one that changes nothing in these texts.

        Raises
        ------
        UserError
            An intervention at another site; a model whose logits are not finite.
        """
        if positions not in POSITIONS:
            raise unknown_name("positions", positions, POSITIONS, where="positions")
        if intervention is None:
            return self._log_p(None, positions), 0.0
        if intervention.site != self.site:
            raise UserError(f"The intervention is at {intervention.site}, the endings wait at {self.site}")
        try:
            with steering(self.language_model, intervention) as steered:
                log_p_N = self._log_p(steered, positions)
        except NothingChanged:
            return log_p_N, 0.0
        return log_p_N, steered.norm

    def _log_p(self, steered: Steered | None, positions: Positions) -> NDArray[np.float64]:
        log_p_N = np.empty(len(self.ids))
        for rows, entering in zip(self._plan, self._entering, strict=True):
            tokens_BT, real_BT = pad([self.ids[row] for row in rows], self.language_model.sink_token)
            start_B1 = torch.tensor([self.starts[row] for row in rows])[:, None]
            place_1T = torch.arange(tokens_BT.shape[1])[None]
            ending_BT = real_BT & (place_1T >= start_B1)
            if steered is not None:
                chosen = {"prompt": real_BT & ~ending_BT, "generated": ending_BT, "both": real_BT}[positions]
                steered.mask_BT = chosen & (place_1T > 0)
            log_p_N[rows] = self._batch(tokens_BT, ending_BT, entering)
        if not np.isfinite(log_p_N).all():
            raise UserError(
                f"The language model gives ending {int(np.isfinite(log_p_N).argmin())} no finite probability",
                where="dtype",
                suggestion="Choose bfloat16 or float32, or a smaller dose",
            )
        return log_p_N

    def _batch(self, tokens_BT: torch.Tensor, ending_BT: torch.Tensor, entering: Any) -> NDArray[np.float64]:
        model, device = self.language_model, self.language_model.device
        kept = torch.arange(int(ending_BT.any(0).nonzero()[0]) - 1, tokens_BT.shape[1] - 1)  # what predicts an ending
        with resumed(model, self.first_block, entering), torch.inference_mode():
            output = model.plain(input_ids=tokens_BT.to(device), use_cache=False, logits_to_keep=kept.to(device))
        ending_BT = ending_BT[:, kept + 1]
        logits_NV = output.logits[ending_BT.to(output.logits.device)].float()
        wanted_N = tokens_BT[:, kept + 1][ending_BT].to(logits_NV.device)
        log_p = -torch.nn.functional.cross_entropy(logits_NV, wanted_N, reduction="none").double().cpu()
        row = ending_BT.nonzero()[:, 0]
        sums_B = torch.zeros(len(tokens_BT), dtype=torch.float64).index_add_(0, row, log_p)
        return (sums_B / ending_BT.sum(1)).numpy()

    def _before(self, rows: Sequence[int]) -> Any:
        """What enters the first block that is run, a tensor or a tuple as the block before gave it."""
        if not self.first_block:
            return None
        before = Site(self.first_block - 1)
        was_tuple = False

        def look(_module: torch.nn.Module, _inputs: object, output: object) -> None:
            nonlocal was_tuple
            was_tuple = isinstance(output, tuple)

        handle = component(self.language_model, before)[0].register_forward_hook(look)
        try:
            (stream,) = run_batch(self.language_model, [self.ids[row] for row in rows], [before])
        finally:
            handle.remove()
        return (stream,) if was_tuple else stream
