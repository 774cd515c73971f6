"""Our model as lm-eval knows models: log-likelihoods of continuations and of whole texts.

Imports lm-eval, which takes a second: only for an evaluation that has text tasks.
"""

from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from stages.evaluation.subject import Subject
from stages.generation import log_likelihoods


class LanguageModel(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """A text without context is predicted from the end-of-text token, which begins every training document too."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.subject = subject

    @property
    def eot_token_id(self) -> int:
        return self.subject.tokenizer.end_of_text

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:  # noqa: ARG002
        return self.subject.tokenizer.encode(string)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        pairs: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return pairs

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[object, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is the greedy one; old context is cut off."""
        asked = [self._shortened(context, continuation) for _, context, continuation in requests]
        with self.subject.computing():
            found = log_likelihoods(self.subject.vlm, asked)
        return [(likelihood.log_probability, likelihood.is_greedy) for likelihood in found]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002
        """Log-probability of each text, in windows of the model's context; every token is predicted once."""
        windows: list[tuple[list[int], list[int]]] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            parts = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.subject.context,
                context_len=1,
            )
            windows += (make_disjoint_window(part) for part in parts)
            owners += [number] * (len(windows) - len(owners))
        totals = [0.0] * len(requests)
        answers = self._loglikelihood_tokens([(None, *window) for window in windows])
        for owner, (log_probability, _) in zip(owners, answers, strict=True):
            totals[owner] += log_probability
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        raise NotImplementedError("text tasks that generate are refused when they are read")

    def _shortened(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """The last token is predicted only, so that context + continuation may be one longer than the model's."""
        continuation = continuation[-self.subject.context :]
        room = self.subject.context + 1 - len(continuation)
        return context[-room:], continuation
