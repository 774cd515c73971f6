"""Our model as lm-eval knows models: log-likelihoods of continuations and of whole texts, and greedy answers.

Imports lm-eval, which takes a second: only for an evaluation that has text tasks.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from stages.data.tokenizer import TextTokenizer
from stages.distributed import Communicator, all_gather_objects
from stages.errors import DataError
from stages.evaluation.evaluated_model import EvaluatedModel
from stages.log_lines import TaskLines
from stages.models.generation import StopCondition, generate_greedy
from stages.models.likelihood import compute_log_likelihoods


class LMEvalModel(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """A text without context is predicted from the end-of-text token, which begins every training document too.

    A model that was fine-tuned with a start-of-text token finds it before every text, as HFLM does it too. Of several
    processes each is one model to lm-eval and asked everything; they share the batches (`EvaluatedModel.peers`).
    """

    def __init__(self, subject: EvaluatedModel, lines: TaskLines | None = None) -> None:
        """`lines`: where it says how many requests are answered."""
        super().__init__()
        self.subject = subject
        self.lines = lines
        self.requests = 0
        """That it was asked so far."""
        self.tokens = 0
        """Positions of these requests."""

    @property
    def eot_token_id(self) -> int:
        return self.subject.tokenizer.end_of_text

    @property
    def prefix_token_id(self) -> int:
        return self.subject.start[-1] if self.subject.start else self.eot_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        # Why: docs/decisions.md, D50
        start = () if add_special_tokens is False else self.subject.start
        return [*start, *self.subject.tokenizer.encode(string)]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        self.requests += len(requests)
        pairs: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return pairs

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[object, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is the greedy one; old context is cut off."""
        asked = [self._shorten(context, continuation) for _, context, continuation in requests]
        check_same_requests(asked, self.subject.peers)
        self.tokens += sum(len(context) + len(continuation) for context, continuation in asked)
        with self.subject.enter_inference():
            found = compute_log_likelihoods(
                self.subject.vlm, asked, peers=self.subject.peers, note=self._note_of(len(asked))
            )
        return [(likelihood.log_probability, likelihood.is_greedy) for likelihood in found]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002
        """Log-probability of each text, in windows of the model's context; every token is predicted once."""
        self.requests += len(requests)
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

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """The greedy answer to each text, up to the first of its stop texts; requests of equal settings in batches."""
        self.requests += len(requests)
        answers = [""] * len(requests)
        parts: dict[StopRule, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            parts[StopRule.from_generation_kwargs(request.args[1], self.subject.max_new_tokens)].append(number)
        for ending, numbers in parts.items():
            texts = [requests[number].args[0] for number in numbers]
            for number, text in zip(numbers, self._answers(texts, ending), strict=True):
                answers[number] = text
        return answers

    def _answers(self, texts: Sequence[str], ending: "StopRule") -> list[str]:
        room = self.subject.context - ending.max_new_tokens
        if room < 1:
            raise DataError(f"{ending.max_new_tokens} new tokens leave no room in a context of {self.subject.context}")
        tokenizer = self.subject.tokenizer
        prompts = [(self.tok_encode(text) or [self.eot_token_id])[-room:] for text in texts]
        check_same_requests(prompts, self.subject.peers)
        with self.subject.enter_inference():
            found = generate_greedy(
                self.subject.vlm,
                prompts,
                max_new_tokens=ending.max_new_tokens,
                stop_token=self.eot_token_id,
                ended=ending.build_predicate(tokenizer) if ending.until else None,
                peers=self.subject.peers,
                note=self._note_of(len(prompts)),
            )
        self.tokens += sum(map(len, prompts))
        return [ending.cut(tokenizer.decode(answer)) for answer in found]

    def _note_of(self, total: int) -> Callable[[int], None] | None:
        """What is told of how many of `total` requests this process has answered: all processes are as far as it."""
        lines, size = self.lines, self.subject.peers.size
        return None if lines is None else lambda done: lines.note(min(total, done * size), total, "requests")

    def _shorten(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """The last token is predicted only, so that context + continuation may be one longer than the model's."""
        continuation = continuation[-self.subject.context :]
        room = self.subject.context + 1 - len(continuation)
        return context[-room:], continuation


def check_same_requests(asked: Sequence[object], peers: Communicator) -> None:
    """DataError if the ranks were not asked the same: a task's own code may choose its documents by chance."""
    found = all_gather_objects(crc32(repr(asked).encode()), peers) if peers.size > 1 else [0]
    if len(set(found)) > 1:
        raise DataError("the processes of this job were given different requests; give the evaluation one GPU")


@dataclass(frozen=True, slots=True)
class StopRule:
    """When an answer is complete."""

    until: tuple[str, ...]
    max_new_tokens: int

    @classmethod
    def from_generation_kwargs(cls, settings: Mapping[str, Any], max_new_tokens: int) -> "StopRule":
        """From a task's generation_kwargs; DataError for sampling, as answers here are greedy.

        `max_new_tokens`: where the task does not say.
        """
        if settings.get("do_sample") or settings.get("temperature"):
            raise DataError("generation_kwargs asks for sampling; only greedy answers are given (do_sample: false)")
        until = settings.get("until") or ()
        until = (until,) if isinstance(until, str) else tuple(until)
        return cls(tuple(text for text in until if text), int(settings.get("max_gen_toks") or max_new_tokens))

    def build_predicate(self, tokenizer: TextTokenizer) -> StopCondition:
        """Whether an answer's end holds a stop text; only as many tokens as that may take are checked."""
        reach = max(len(text.encode()) for text in self.until) + 8  # a token holds a byte at least, but for a few
        return lambda answer: any(text in tokenizer.decode(answer[-reach:]) for text in self.until)

    def cut(self, answer: str) -> str:
        """The answer up to its first stop text."""
        for text in self.until:
            answer = answer.split(text, maxsplit=1)[0]
        return answer
