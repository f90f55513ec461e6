"""SAELens' BatchTopK class, decoded sparsely: the same mathematics at about half the cost on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from sae_lens import BatchTopKTrainingSAE
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput


class SparseAutoencode(torch.autograd.Function):
    """x -> sum over active latents of their pre-activation times their decoder row, with sparse gradients.

    Which latents are active is decided outside (BatchTopK); the gradient flows through the active ones only. Two of
    the four dense products of an ordinary step disappear.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_BD: torch.Tensor,
        W_enc_DF: torch.Tensor,
        b_enc_F: torch.Tensor,
        W_dec_FD: torch.Tensor,
        b_dec_D: torch.Tensor,
        values_n: torch.Tensor,
        rows_n: torch.Tensor,
        columns_n: torch.Tensor,
    ) -> torch.Tensor:
        """Decode the given (row, column, pre-activation) triples; rows are sorted."""
        codes = _csr(rows_n, columns_n, values_n, (len(x_BD), len(b_enc_F)))
        ctx.save_for_backward(x_BD, W_dec_FD, values_n, rows_n, columns_n)
        return codes @ W_dec_FD + b_dec_D

    @staticmethod
    def backward(ctx: Any, grad_BD: torch.Tensor) -> Any:
        """Gradients for the encoder and decoder; the input gets none."""
        x_BD, W_dec_FD, values_n, rows_n, columns_n = ctx.saved_tensors
        # One dense product and a look-up beat gathering rows for each active latent.
        grad_n = (grad_BD @ W_dec_FD.T)[rows_n, columns_n]
        order = torch.argsort(columns_n, stable=True)
        shape = (W_dec_FD.shape[0], len(x_BD))
        codes_T = _csr(columns_n[order], rows_n[order], values_n[order], shape)
        grads_T = _csr(columns_n[order], rows_n[order], grad_n[order], shape)
        grad_b_enc = grad_n.new_zeros(shape[0]).index_add_(0, columns_n, grad_n)
        return None, (grads_T @ x_BD).T, grad_b_enc, codes_T @ grad_BD, grad_BD.sum(0), None, None, None


def _csr(rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    starts = rows.new_zeros(shape[0] + 1)
    starts[1:] = torch.bincount(rows, minlength=shape[0]).cumsum(0)
    return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)


class SparseBatchTopK(BatchTopKTrainingSAE):
    """SAELens' BatchTopK SAE whose training step is sparse; everything else (saving, loading, folding) is SAELens'.

    References
    ----------
    Bussmann, Leask and Nanda (2024), BatchTopK sparse autoencoders.
    """

    topk_threshold: torch.Tensor

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """One step: select with BatchTopK, reconstruct, add the auxiliary loss of dead latents."""
        x = step_input.sae_in
        with torch.no_grad():
            norm = self.W_dec.norm(dim=-1)
            scores = torch.addmm(self.b_enc * norm, x, self.W_enc * norm)
            rows, columns = self._select(scores, int(self.activation_fn.k * len(x)))
            values = scores[rows, columns] / norm[columns]
        out = SparseAutoencode.apply(x, self.W_enc, self.b_enc, self.W_dec, self.b_dec, values, rows, columns)
        mse = (out - x).pow(2).sum(-1).mean()
        aux = self._auxiliary_loss(x, out, step_input.dead_neuron_mask)
        codes = torch.sparse_coo_tensor(
            torch.stack([rows, columns]), values, scores.shape, is_coalesced=True, check_invariants=False
        )
        return TrainStepOutput(
            sae_in=x,
            sae_out=out,
            feature_acts=codes,
            hidden_pre=scores,
            loss=mse + aux,
            losses={"mse_loss": mse, "auxiliary_reconstruction_loss": aux},
        )

    @torch.no_grad()
    def _select(self, scores: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns of the n largest positive scores of the batch, sorted by row; updates the threshold.

        A guess from the running threshold leaves few candidates, so that the exact selection is cheap.
        """
        flat = scores.flatten()
        candidates = torch.nonzero(flat > 0.9 * self.topk_threshold)[:, 0]
        if len(candidates) < n:
            candidates = torch.nonzero(flat > 0)[:, 0]
        kept = flat[candidates]
        if len(candidates) > n:
            largest = torch.topk(kept, n, sorted=False).indices
            candidates = candidates[largest].sort().values
            kept = flat[candidates]
        if len(kept):
            rate = self.cfg.topk_threshold_lr
            self.topk_threshold = (1 - rate) * self.topk_threshold + rate * kept.min().double()
        return candidates // scores.shape[1], candidates % scores.shape[1]

    def _auxiliary_loss(self, x: torch.Tensor, out: torch.Tensor, dead: torch.Tensor | None) -> torch.Tensor:
        """Dead latents predict what the living ones missed (Gao et al. 2024, appendix A.2)."""
        if dead is None or not dead.any():
            return out.new_tensor(0.0)
        which = torch.nonzero(dead)[:, 0]
        k_aux = min(x.shape[1] // 2, len(which))
        pre = x @ self.W_enc[:, which] + self.b_enc[which]
        top = pre.topk(k_aux, dim=-1, sorted=False)
        codes = torch.zeros_like(pre).scatter(-1, top.indices, top.values)
        missed = (x - out).detach()
        scale = min(len(which) / (x.shape[1] // 2), 1.0)
        return self.cfg.aux_loss_coefficient * scale * (codes @ self.W_dec[which] - missed).pow(2).sum(-1).mean()
