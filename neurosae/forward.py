"""One pass through a language model: batches sorted by length, listening at sites, stopping at the deepest one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch

from neurosae.errors import UserError
from neurosae.models import LanguageModel
from neurosae.progress import progress_bar
from neurosae.sites import Site

Change = Callable[[torch.Tensor], torch.Tensor | None]


class _DeepestReached(Exception):
    """Raised by the last hook: nothing beyond it is asked for."""


@contextmanager
def at_site(language_model: LanguageModel, site: Site, change: Change) -> Iterator[None]:
    """While the block lasts, `change` sees the activation at a site of the plain model; what it returns replaces it.

    Components return a tensor or a tuple whose first entry is the tensor, depending on the version: both are handled.
    """
    module, listens_to_output = component(language_model, site)

    def on_output(_module: torch.nn.Module, _inputs: object, output: Any) -> Any:
        new = change(output[0] if isinstance(output, tuple) else output)
        return new if new is None or not isinstance(output, tuple) else (new, *output[1:])

    def on_input(_module: torch.nn.Module, inputs: tuple[Any, ...]) -> Any:
        new = change(inputs[0])
        return None if new is None else (new, *inputs[1:])

    if listens_to_output:
        handle = module.register_forward_hook(on_output)
    else:
        handle = module.register_forward_pre_hook(on_input)
    try:
        yield
    finally:
        handle.remove()


def component(language_model: LanguageModel, site: Site) -> tuple[torch.nn.Module, bool]:
    """The module of the plain model whose output (True) or input (False) is the site; looked for once."""
    known = language_model.components
    if str(site) not in known:
        known[str(site)] = _find_component(language_model, site)
    return known[str(site)]


def _find_component(language_model: LanguageModel, site: Site) -> tuple[torch.nn.Module, bool]:
    """Find it through the bridge.

    The bridge knows for every architecture which component a hook belongs to; its module paths differ from those of the
    plain model only by its own wrappers.
    """
    hook = language_model.bridge.hook_dict[str(site)]
    for path, module in language_model.bridge.original_model.named_modules():
        for end, is_output in (("hook_out", True), ("hook_in", False)):
            if getattr(module, end, None) is hook:
                parts = [part for part in path.split(".") if part != "_original_component"]
                return language_model.plain.get_submodule(".".join(parts)), is_output
    raise UserError(f"{site} is no component of {language_model.name}", where="site")


def batches(ids: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Row numbers of each batch: texts sorted by length (stable), `batch_size` at a time.

    Sorting wastes next to no work on padding, and the plan depends on the lengths alone.
    """
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def pad(ids: Sequence[Sequence[int]], fill: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded token ids, and where they are real: both of shape (batch, longest text)."""
    width = max(map(len, ids))
    tokens = torch.tensor([[*row, *[fill] * (width - len(row))] for row in ids])
    real = torch.arange(width)[None] < torch.tensor([len(row) for row in ids])[:, None]
    return tokens, real


def run_batch(language_model: LanguageModel, ids: Sequence[Sequence[int]], sites: Sequence[Site]) -> list[torch.Tensor]:
    """Activations of one right-padded batch at several sites.

    With causal attention the real tokens never see the padding behind them, so no attention mask is given and the
    fast attention path stays open. Blocks beyond the deepest site and the language-modelling head are not computed.

    Returns
    -------
    list of torch.Tensor of shape (batch, longest text, d_model)
        One per site, in the order asked for: copies, so that nothing later in the pass can overwrite them.
    """
    tokens, _ = pad(ids, language_model.sink_token)
    heard: dict[Site, torch.Tensor] = {}

    def listener(site: Site) -> Change:
        def listen(activation: torch.Tensor) -> None:
            heard[site] = activation.detach().clone()
            if len(heard) == len(set(sites)):
                raise _DeepestReached

        return listen

    with ExitStack() as hooks, suppress(_DeepestReached), torch.inference_mode():
        for site in set(sites):
            hooks.enter_context(at_site(language_model, site, listener(site)))
        language_model.base(input_ids=tokens.to(language_model.device), use_cache=False)
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
    for rows in progress_bar(plan, desc="reading stimuli", unit="batches", shown=progress):
        yield rows, run_batch(language_model, [ids[row] for row in rows], sites)
