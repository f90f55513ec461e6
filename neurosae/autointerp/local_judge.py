"""The judge that needs no server: an instruct model on this machine, asked which grade is likeliest.

The bundled model has 135 million parameters and is a weak judge: calibrate before believing it. Any larger Hugging Face
model can take its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurosae.autointerp.judges import GRADES, PRESENT, Answer, Completion, Grade, GradeRequest, unanswered
from neurosae.autointerp.prompting import Prompt, load_prompt
from neurosae.errors import UserError
from neurosae.forward import batches, pad
from neurosae.models import LanguageModel

CONTENT_FREE = ("N/A", "[MASK]", "...")


class LocalJudge:
    """Grades by the likelihood of the labels 0 to 3 as the next token after the chat prompt.

    A model prefers some labels whatever it reads. Contextual calibration divides the label probabilities by their mean
    over content-free texts under the same prompt (Zhao et al. 2021), so that an empty sentence favours no grade.

    Parameters
    ----------
    language_model : LanguageModel
        With a chat template.
    batch_size : int, default 8
        Prompts per pass: bounds memory.

    Raises
    ------
    UserError
        No chat template; labels that are not one token each.

    References
    ----------
    Zhao, Wallace, Feng, Klein & Singh (2021), Calibrate before use, ICML.
    """

    def __init__(self, language_model: LanguageModel, *, batch_size: int = 8) -> None:
        tokenizer = language_model.tokenizer
        if not tokenizer.chat_template:
            raise UserError(
                f"{language_model.name} has no chat template", where="judge_model", allowed="an instruct model"
            )
        labels = [tokenizer(str(grade), add_special_tokens=False).input_ids for grade in GRADES]
        if any(len(label) != 1 for label in labels):
            raise UserError(f"{language_model.name} does not write 0 to 3 as one token each", where="judge_model")
        self.language_model, self.batch_size = language_model, batch_size
        self.name = f"local:{language_model.name}"
        self._plain: Any = language_model.plain
        self._labels = torch.tensor([label[0] for label in labels])
        self._prompt = load_prompt("grade_local")
        self._priors: dict[tuple[str, str, str], NDArray[np.float64]] = {}

    @property
    def prompt(self) -> Prompt:
        """The prompt that grades are asked with."""
        return self._prompt

    def grade(self, requests: Sequence[GradeRequest]) -> list[Grade]:
        """One grade per request: the likeliest label, and the probability of 2 or 3.

        A request that is longer than the model's context, or whose labels have no finite likelihood, is unanswered.
        """
        return [self._as_grade(logp_G) for logp_G in self.log_probabilities(requests)]

    def log_probabilities(self, requests: Sequence[GradeRequest]) -> NDArray[np.float64]:
        """Calibrated log probabilities of the labels, shape (requests, 4); NaN where a request is too long."""
        groups = dict.fromkeys((r.concept, r.definition, r.rule) for r in requests)
        unknown = [group for group in groups if group not in self._priors]
        free = [GradeRequest(text, *group) for group in unknown for text in CONTENT_FREE]
        raw_RG = self._raw([*free, *requests])
        for i, group in enumerate(unknown):
            mean_G = np.exp(raw_RG[i * len(CONTENT_FREE) : (i + 1) * len(CONTENT_FREE)]).mean(axis=0)
            self._priors[group] = np.log(mean_G)
        prior_RG = np.array([self._priors[(r.concept, r.definition, r.rule)] for r in requests])
        calibrated_RG = raw_RG[len(free) :].reshape(-1, len(GRADES)) - prior_RG.reshape(-1, len(GRADES))
        return _normalised(calibrated_RG)

    def _as_grade(self, logp_G: NDArray[np.float64]) -> Grade:
        if not np.isfinite(logp_G).all():
            return unanswered(f"longer than the context of {self.language_model.name}, or no finite likelihood")
        return Grade(int(np.argmax(logp_G)), float(np.exp(logp_G[PRESENT:]).sum()), True, "")

    def _raw(self, requests: Sequence[GradeRequest]) -> NDArray[np.float64]:
        """Log probabilities of the labels among themselves, before calibration, shape (requests, 4)."""
        ids = []
        for request in requests:
            system, user = self._prompt.fill(
                concept=request.concept, definition=request.definition, rule=request.rule, text=request.text
            )
            ids.append(self._chat(system, user, "Grade: "))
        raw_RG = np.full((len(ids), len(GRADES)), np.nan)
        short = [row for row in range(len(ids)) if len(ids[row]) <= self.language_model.context]
        for chosen in batches([ids[row] for row in short], self.batch_size):
            rows = [short[i] for i in chosen]
            raw_RG[rows] = self._label_logits([ids[row] for row in rows])
        return _normalised(raw_RG)

    def _label_logits(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Logits of the labels after the last real token; the padding behind it is never seen."""
        tokens, real = pad(ids, self.language_model.sink_token)
        last = real.sum(dim=1) - 1
        with torch.inference_mode():
            hidden = self.language_model.base(
                input_ids=tokens.to(self.language_model.device), use_cache=False
            ).last_hidden_state[torch.arange(len(ids)), last]
            logits = self._plain.get_output_embeddings()(hidden)[:, self._labels]
        return logits.double().cpu().numpy()

    def _chat(self, system: str, user: str, start: str = "") -> list[int]:
        """Token ids of a chat up to the start of the answer."""
        messages = [{"role": "system", "content": system}] if system else []
        tokenizer = self.language_model.tokenizer
        rendered = tokenizer.apply_chat_template(
            [*messages, {"role": "user", "content": user}], tokenize=False, add_generation_prompt=True
        )
        return list(tokenizer(rendered + start, add_special_tokens=False).input_ids)

    def complete(self, requests: Sequence[Completion]) -> list[Answer]:
        """One answer per request, decoded greedily, so that it is the same each time."""
        return [self._complete(request) for request in requests]

    def _complete(self, request: Completion) -> Answer:
        tokenizer = self.language_model.tokenizer
        ids = self._chat(request.system, request.prompt)
        if len(ids) + request.max_tokens > self.language_model.context:
            return Answer("", False, f"longer than the context of {self.language_model.name}")
        tokens = torch.tensor([ids], device=self.language_model.device)
        with torch.inference_mode():
            whole = self._plain.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                max_new_tokens=request.max_tokens,
                pad_token_id=tokenizer.eos_token_id,
            )
        text = tokenizer.decode(whole[0, len(ids) :], skip_special_tokens=True).strip()
        return Answer(text, bool(text), "" if text else "empty answer")


def _normalised(logits_RG: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log probabilities of the labels among themselves; NaN stays NaN."""
    with np.errstate(invalid="ignore"):
        return logits_RG - np.logaddexp.reduce(logits_RG, axis=1, keepdims=True)
