"""Training with SAELens' classes: annealed k, a log, checkpoints at an interval, and exact resumption."""

from __future__ import annotations

import dataclasses
import json
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sae_lens import TrainingSAE
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopK
from sae_lens.saes.sae import TrainStepOutput
from sae_lens.saes.topk_sae import TopK
from sae_lens.training.sae_trainer import SAETrainer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from neurosae.errors import UserError
from neurosae.files import atomic_path, write_json
from neurosae.progress import progress_bar
from neurosae.sae.activations import only_run
from neurosae.sae.training_data import TrainingData
from neurosae.sae.training_log import TrainingLog
from neurosae.sae.training_plan import TrainingPlan, initial_sae, threshold_for

_SAMPLE, _CALIBRATION = 50_000, 20_000  # tokens for scale and centre; for thresholds
_LOG_EVERY = 10  # steps
_POSITION, _DATA = "position.json", "data.safetensors"


class Trainer(SAETrainer):
    """SAELens' trainer with an annealed k, a log, and checkpoints that are written whole or not at all.

    Parameters
    ----------
    cfg, sae, data_provider
        As for SAELens' class.
    plan : TrainingPlan
    checkpoints : Path
        Folder of checkpoints, named by the tokens seen; only the newest is kept.
    checkpoint_every : int
        Steps between checkpoints.
    """

    def __init__(
        self,
        cfg: SAETrainerConfig,
        sae: TrainingSAE,
        data_provider: TrainingData,
        *,
        plan: TrainingPlan,
        checkpoints: Path,
        checkpoint_every: int,
    ) -> None:
        super().__init__(cfg, sae, data_provider)
        self.plan, self.checkpoints, self.checkpoint_every = plan, checkpoints, checkpoint_every

    def fit_logged(self, log: TrainingLog) -> None:
        """Train from where it stands to the end, the last checkpoint; then the scale is folded into the weights."""
        total = self.cfg.total_training_steps
        bar = progress_bar(
            total=total * self.cfg.train_batch_size_samples,
            initial=self.n_training_samples,
            desc=f"training {self.plan.architecture}",
            unit="tokens",
            unit_scale=True,
        )
        with bar:
            while self.n_training_steps < total:
                output = self.step(next(self.data_provider))
                self.n_training_steps += 1
                if self.n_training_steps % _LOG_EVERY == 0 or self.n_training_steps == total:
                    row = self.figures(output)
                    log.write(row)
                    bar.set_postfix(fvu=f"{row['fvu']:.3f}", l0=f"{row['l0']:.1f}", dead=row["dead"], refresh=False)
                if self.n_training_steps % self.checkpoint_every == 0 or self.n_training_steps == total:
                    self.keep_checkpoint()
                bar.update(self.cfg.train_batch_size_samples)
        self.sae.fold_activation_norm_scaling_factor(self.activation_scaler.scaling_factor)

    def step(self, batch: torch.Tensor) -> TrainStepOutput:
        """One training step at the k of this moment; a loss that is not finite ends the training."""
        if isinstance(self.sae.activation_fn, TopK | BatchTopK):
            k = self.plan.k_at(self.n_training_steps / self.cfg.total_training_steps)
            self.sae.activation_fn.k = round(k) if isinstance(self.sae.activation_fn, TopK) else k
        output = super().step(batch)
        if not torch.isfinite(output.loss):
            raise self._diverged(f"The loss is {output.loss.item():g} at step {self.n_training_steps + 1:,}")
        return output

    @torch.no_grad()
    def figures(self, output: TrainStepOutput) -> dict[str, float]:
        """One row of the log: what this batch says about the SAE."""
        x, out = output.sae_in, output.sae_out
        l0 = output.feature_acts.bool().float().sum() / len(x)
        return {
            "step": self.n_training_steps,
            "tokens": self.n_training_samples,
            "fvu": round(float((out - x).square().sum() / (x - x.mean(0)).square().sum()), 5),
            "l0": round(float(l0), 2),
            "dead": int(self.dead_neurons.sum()),
            "lr": self.optimizer.param_groups[0]["lr"],
            "loss": round(float(output.loss), 5),
            **{name: round(float(loss), 5) for name, loss in output.losses.items()},
        }

    def keep_checkpoint(self) -> None:
        """Write a checkpoint in SAELens' format and the position in the data, then remove the older ones."""
        if not all(torch.isfinite(parameter).all() for parameter in self.sae.parameters()):
            raise self._diverged(f"Weights are not finite at step {self.n_training_steps:,}")
        older = _finished(self.checkpoints)
        target = self.checkpoints / str(self.n_training_samples)
        with atomic_path(target) as temporary:
            self.save_checkpoint(temporary.name, base_path=temporary.parent)
            save_file(self.data_provider.state(), temporary / _DATA)
            about = {"position": self.data_provider.position, "steps": self.cfg.total_training_steps}
            write_json(temporary / _POSITION, about | {"plan": dataclasses.asdict(self.plan)})
        for folder in older:
            if folder != target:
                _remove(folder)

    def _diverged(self, what: str) -> UserError:
        if newest(self.checkpoints):
            what += f"; the last checkpoint in {self.checkpoints} is untouched"
        lower = f"Start over in another folder with a learning rate below {self.plan.lr:g}"
        return UserError(what, where="training", suggestion=lower)

    def resume(self, checkpoint: Path) -> None:
        """Take up weights, optimiser, schedules and scale of a checkpoint."""
        with _readable(checkpoint):
            self.sae.load_weights_from_checkpoint(checkpoint)
            self.load_trainer_state(checkpoint)


def newest(checkpoints: Path) -> Path | None:
    """The checkpoint that saw most tokens, None if there is none."""
    return max(_finished(checkpoints), key=lambda folder: int(folder.name), default=None)


def _finished(checkpoints: Path) -> list[Path]:
    return [path.parent for path in checkpoints.glob(f"[0-9]*/{_POSITION}")]


def training_steps(plan: TrainingPlan, n_tokens: int, batch_size: int) -> int:
    """Batches in all epochs; the last one's rest is left out.

    Raises
    ------
    UserError
        Less than one batch.
    """
    steps = int(plan.epochs * n_tokens / batch_size)
    if steps < 1:
        raise UserError(f"{plan.epochs:g} epochs of {n_tokens:,} tokens are less than one batch", where="epochs")
    return steps


def _where_it_stood(checkpoint: Path, steps: int, plan: TrainingPlan) -> dict[str, torch.Tensor]:
    """The state of the data; the learning rate's schedule fits no training of another length or plan."""
    with _readable(checkpoint):
        about = json.loads((checkpoint / _POSITION).read_text(encoding="utf-8"))
        position, planned, known = int(about["position"]), int(about["steps"]), dict(about.get("plan", {}))
        # Older checkpoints hold the position only.
        state = load_file(checkpoint / _DATA) if known else {"position": torch.tensor(position)}
    asked = json.loads(json.dumps(dataclasses.asdict(plan)))
    differs = f"of {planned:,} steps, this one has {steps:,}" if planned != steps else ""
    if changed := [name for name in known if known[name] != asked.get(name)]:
        differs = differs or f"with another {', '.join(changed)}"
    if differs:
        raise UserError(
            f"{checkpoint} is of a training {differs}",
            where="out",
            suggestion="Choose another folder, or delete the checkpoints to start over",
        )
    return state


@contextmanager
def _readable(checkpoint: Path) -> Iterator[None]:
    """Files that are missing, cut short or of another SAE become a message."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        first_line = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"The checkpoint {checkpoint} cannot be read ({first_line})", suggestion="Delete it to start over"
        ) from error


def _remove(folder: Path) -> None:
    # The position goes first: without it, a folder is no checkpoint.
    for name in (_POSITION, *(path.name for path in folder.iterdir() if path.name != _POSITION)):
        (folder / name).unlink()
    folder.rmdir()


def train(
    data: TrainingData,
    plan: TrainingPlan,
    out: Path,
    *,
    metadata: Mapping[str, Any],
    device: str | torch.device = "cpu",
    checkpoint_every: int = 200,
    log: str | None = None,
) -> TrainingSAE:
    """Train an SAE that reads activations in the language model's own units.

    One scalar brings the mean norm of the activations to sqrt(D) during training; at the end it is folded into the
    weights, decoder rows get norm 1 (encoder, biases and thresholds with them), and batchtopk and matryoshka get the
    one threshold at which k latents are active on average.

    Parameters
    ----------
    data : TrainingData
        `ShardData` or `StreamData`.
    plan : TrainingPlan
    out : Path
        Gets ``checkpoints/`` and ``training.csv``. A run that finds a checkpoint goes on from it: bitwise as if it had
        not been interrupted with `ShardData` on a CPU, with a new order of the data with `StreamData`.
    metadata : mapping
        What the SAE's configuration says about its origin: ``hook_name``, ``model_name`` and whatever else.
    device : str or torch.device, default "cpu"
        Where the SAE is trained; batches are moved there. Initial weights do not depend on it.
    checkpoint_every : int, default 200
        Steps between checkpoints: what a killed run loses at most. There is one at the end, too.
    log : {"tensorboard", "wandb"}, optional
        Where the rows of ``training.csv`` go besides.

    Returns
    -------
    sae_lens.TrainingSAE

    Raises
    ------
    UserError
        A loss that is not finite, a stream that ends early, a checkpoint that cannot be read or is of another plan,
        `log` not installed, another run that trains into `out`.
    """
    if checkpoint_every < 1:
        raise UserError(f"checkpoint_every is {checkpoint_every}", where="checkpoint_every", allowed="1 or more")
    steps = training_steps(plan, data.n, data.batch_size)
    with only_run(out):
        checkpoint = newest(out / "checkpoints")
        if checkpoint:
            data.go_on(_where_it_stood(checkpoint, steps, plan))
        sample_TD = data.sample(_SAMPLE)
        scale = float(sample_TD.shape[1] ** 0.5 / sample_TD.norm(dim=-1).mean())
        sae = initial_sae(plan, sample_TD, scale, dict(metadata), warm_up_steps=steps // 10).to(device)
        trainer = Trainer(
            _trainer_config(plan, steps, data.batch_size, device),
            sae,
            data,
            plan=plan,
            checkpoints=out / "checkpoints",
            checkpoint_every=checkpoint_every,
        )
        trainer.activation_scaler.scaling_factor = scale
        if checkpoint:
            trainer.resume(checkpoint)
        with warnings.catch_warnings(), TrainingLog(out / "training.csv", trainer.n_training_steps, log) as rows:
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            trainer.fit_logged(rows)
    sae.fold_W_dec_norm()
    if isinstance(sae.activation_fn, BatchTopK):
        # The running threshold lags behind after a short training.
        sae.topk_threshold = threshold_for(sae, sample_TD[:_CALIBRATION], plan.k).double()
    sae.cfg.metadata.l0 = round(_mean_l0(sae, sample_TD[:_CALIBRATION]), 2)
    sae.cfg.metadata.num_dead_features = int(trainer.dead_neurons.sum())
    return sae


@torch.no_grad()
def _mean_l0(sae: TrainingSAE, x_TD: torch.Tensor, block_tokens: int = 2000) -> float:
    return sum(int((sae.encode(x.to(sae.W_enc)) > 0).sum()) for x in x_TD.split(block_tokens)) / len(x_TD)


def _trainer_config(plan: TrainingPlan, steps: int, batch_size: int, device: str | torch.device) -> SAETrainerConfig:
    return SAETrainerConfig(
        total_training_samples=steps * batch_size,
        train_batch_size_samples=batch_size,
        device=str(device),
        lr=plan.lr,
        lr_end=0.0,
        lr_warm_up_steps=min(1000, steps // 20),
        lr_decay_steps=steps // 5,
        dead_feature_window=max(1, plan.dead_after_tokens // batch_size),
    )
