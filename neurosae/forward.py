"""One pass through a language model: batches sorted by length, listening at sites, stopping at the deepest one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from tqdm.auto import tqdm

from neurosae.models import LanguageModel
from neurosae.sites import Site


class _DeepestReached(Exception):
    """Raised by the last hook: nothing beyond it is asked for."""


def batches(ids: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Row numbers of each batch: texts sorted by length (stable), `batch_size` at a time.

    Sorting wastes next to no work on padding, and the plan depends on the lengths alone.
    """
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def run_batch(language_model: LanguageModel, ids: Sequence[Sequence[int]], sites: Sequence[Site]) -> list[torch.Tensor]:
    """Activations of one right-padded batch at several sites.

    With causal attention the real tokens never see the padding behind them, so no attention mask is given and the
    fast attention path stays open. Blocks beyond the deepest site and the language-modelling head are not computed.

    Returns
    -------
    list of torch.Tensor of shape (batch, longest text, d_model)
        One per site, in the order asked for: copies, so that nothing later in the pass can overwrite them.
    """
    width = max(map(len, ids))
    tokens = torch.full((len(ids), width), language_model.sink_token, dtype=torch.long)
    for row, text_ids in enumerate(ids):
        tokens[row, : len(text_ids)] = torch.tensor(text_ids)
    heard: dict[Site, torch.Tensor] = {}

    def listener(site: Site) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
            # A component returns a tensor or a tuple whose first entry is the tensor, depending on the version.
            heard[site] = (output[0] if isinstance(output, tuple) else output).detach().clone()
            if len(heard) == len(set(sites)):
                raise _DeepestReached

        return hook

    hooks = language_model.bridge.hook_dict
    handles = [hooks[str(site)].register_forward_hook(listener(site)) for site in set(sites)]
    try:
        with torch.inference_mode():
            language_model.base(input_ids=tokens.to(language_model.device), use_cache=False)
    except _DeepestReached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return [heard[site] for site in sites]


def stream(
    language_model: LanguageModel,
    ids: Sequence[Sequence[int]],
    sites: Sequence[Site],
    *,
    batch_size: int = 32,
    progress: bool = False,
) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
    """Yield (row numbers, activations per site) batch by batch: memory is bounded by `batch_size`."""
    plan = list(batches(ids, batch_size))
    for rows in tqdm(plan, desc="reading stimuli", unit="batch", disable=not progress):
        yield rows, run_batch(language_model, [ids[row] for row in rows], sites)
