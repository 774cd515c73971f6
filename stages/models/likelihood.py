"""Log-likelihoods of continuations, in batches: continuations of one context share its forward pass.

Continuations lie behind their context in one row, and a mask keeps them from seeing each other: a four-choice question
costs its context once. A continuation's last token is predicted only, so that one-token choices cost nothing more.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stages.distributed import SINGLE_PROCESS, Communicator, map_batches
from stages.models.vlm import VLM

LikelihoodRequest = tuple[Sequence[int], Sequence[int]]
"""Context and continuation, as token ids."""

MAX_SHARED_POSITIONS = 1_024
"""Positions of continuations in one row; further ones begin a new row. Bounds the mask, which is quadratic."""
MAX_LOGITS = 1 << 25
"""Logits in memory at once (128 MiB)."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Of a continuation, given its context."""

    log_probability: float
    """Sum over the continuation's tokens, natural logarithm."""
    is_greedy: bool
    """Whether greedy decoding would have given the continuation."""

    def encode_numbers(self) -> tuple[int, int]:
        """As whole numbers, which processes exchange: the bits of the first, and the second."""
        return struct.unpack("<q", struct.pack("<d", self.log_probability))[0], int(self.is_greedy)

    @classmethod
    def from_numbers(cls, numbers: Sequence[int]) -> "Likelihood":
        """From its `numbers`."""
        return cls(struct.unpack("<d", struct.pack("<q", numbers[0]))[0], bool(numbers[1]))


# Why: docs/decisions.md, D44
@dataclass(slots=True)
class ContextRow:
    """A context with its continuations."""

    context: Sequence[int]
    requests: list[int] = field(default_factory=list)
    """Numbers of the requests that are answered here."""
    continuations: list[Sequence[int]] = field(default_factory=list)

    @property
    def continuation_positions(self) -> int:
        """Positions that the continuations take."""
        return sum(max(0, len(continuation) - 1) for continuation in self.continuations)

    @property
    def is_branched(self) -> bool:
        """Whether two continuations take positions, so that a mask must part them."""
        return sum(len(continuation) > 1 for continuation in self.continuations) > 1


@torch.inference_mode()
def compute_log_likelihoods(
    vlm: VLM,
    requests: Sequence[LikelihoodRequest],
    *,
    features: Tensor | None = None,
    batch_tokens: int | None = None,
    share: bool = True,
    peers: Communicator = SINGLE_PROCESS,
    note: Callable[[int], None] | None = None,
) -> list[Likelihood]:
    """Of each (context, continuation), both token ids; the context needs a token unless there is an image.

    `features` (N, I, F): one image for each request, placed before the context. Rows are batched by length, up to
    `batch_tokens` positions at once (None: 1,024 on a CPU, whose caches a small part fits, else 16,384), and requests
    answered in their order. `share`: requests with an equal context, and no image, share a row. `peers` ask the same
    and share the batches; each gets all answers. `note`: see `map_batches`.
    """
    vlm.eval()
    images = vlm.image_tokens if features is not None else 0
    if batch_tokens is None:
        batch_tokens = 1_024 if vlm.lm.output.weight.device.type == "cpu" else 16_384

    def answered(rows: list[ContextRow]) -> dict[int, tuple[int, int]]:
        part = features[[row.requests[0] for row in rows]] if features is not None else None
        owners = [request for row in rows for request in row.requests]
        found = compute_batch_likelihoods(vlm, rows, part)
        return {request: answer.encode_numbers() for request, answer in zip(owners, found, strict=True)}

    batches = group_into_batches(group_by_context(requests, share=share and features is None), images, batch_tokens)
    answers = map_batches(batches, answered, peers, note)
    return [Likelihood.from_numbers(answers[number]) for number in range(len(requests))]


def group_into_batches(rows: Sequence[ContextRow], images: int, batch_tokens: int) -> list[list[ContextRow]]:
    """Rows of about one length together; `images`: positions of each row's image."""
    ordered = sorted(rows, key=lambda row: -len(row.context) - row.continuation_positions)
    batches: list[list[ContextRow]] = []
    while ordered:
        count = max(1, batch_tokens // max(1, images + len(ordered[0].context) + ordered[0].continuation_positions))
        batches.append(ordered[:count])
        ordered = ordered[count:]
    return batches


def group_by_context(requests: Sequence[LikelihoodRequest], *, share: bool) -> list[ContextRow]:
    """The requests in rows, one for each context, or each request alone."""
    rows: list[ContextRow] = []
    open_rows: dict[tuple[int, ...], ContextRow] = {}
    for number, (context, continuation) in enumerate(requests):
        row = open_rows.get(tuple(context)) if share else None
        if row is None or row.continuation_positions + len(continuation) > MAX_SHARED_POSITIONS:
            row = ContextRow(context)
            rows.append(row)
            if share:
                open_rows[tuple(context)] = row
        row.requests.append(number)
        row.continuations.append(continuation)
    return rows


def compute_batch_likelihoods(vlm: VLM, rows: Sequence[ContextRow], features: Tensor | None) -> list[Likelihood]:
    """The likelihoods of all continuations of the rows, row by row; padded on the right."""
    device = vlm.lm.output.weight.device
    images = vlm.image_tokens if features is not None else 0
    layout = BatchLayout.from_rows(rows, images)
    places = None
    if features is not None:
        places = (torch.arange(len(rows)) * layout.length)[:, None] + torch.arange(images)
        places, features = places.to(device), features.to(device)
    embeddings = vlm.embed(layout.tokens.to(device), features, places)
    if any(row.is_branched for row in rows):
        mask, positions = build_branch_mask(layout.branches.to(device)), layout.positions.to(device)
        hidden = vlm.lm.compute_hidden(embeddings, mask=mask, positions=positions)
    else:
        hidden = vlm.lm.compute_hidden(embeddings)  # what follows a position does not reach it
    scores, hits = score_tokens(vlm, hidden.flatten(0, 1), layout.asked)
    return sum_by_continuation([len(continuation) for row in rows for continuation in row.continuations], scores, hits)


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """Rows side by side, as tensors (B, T); the first positions of each are its image's."""

    tokens: Tensor
    branches: Tensor
    """Which continuation a position belongs to, from 1 on; 0: the context, or padding."""
    positions: Tensor
    """Its place in its own text."""
    asked: list[tuple[int, int]]
    """Place that predicts among all of the batch, and token predicted."""

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    @classmethod
    def from_rows(cls, rows: Sequence[ContextRow], images: int) -> "BatchLayout":
        """`images`: positions of an image. ValueError for a row that begins with nothing."""
        longest = max(images + len(row.context) + row.continuation_positions for row in rows)
        tokens, branches, positions = (torch.zeros(len(rows), longest, dtype=torch.long) for _ in range(3))
        asked: list[tuple[int, int]] = []
        for number, row in enumerate(rows):
            if images + len(row.context) == 0:
                raise ValueError("a continuation needs a context of at least one token, or an image")
            text, branch, position = flatten_row(row)
            end = images + len(text)
            tokens[number, images:end] = torch.tensor(text, dtype=torch.long)
            branches[number, images:end] = torch.tensor(branch, dtype=torch.long)
            positions[number, :images] = torch.arange(images)
            positions[number, images:end] = torch.tensor(position, dtype=torch.long) + images
            asked += iter_predictions(row, number * longest + images)
        return cls(tokens, branches, positions, asked)


def flatten_row(row: ContextRow) -> tuple[list[int], list[int], list[int]]:
    """Tokens of a row, the branch of each (0: the context) and its position in its own text."""
    tokens, branches, positions = list(row.context), [0] * len(row.context), list(range(len(row.context)))
    for branch, continuation in enumerate(row.continuations, start=1):
        seen = continuation[:-1]
        tokens += seen
        branches += [branch] * len(seen)
        positions += range(len(row.context), len(row.context) + len(seen))
    return tokens, branches, positions


def iter_predictions(row: ContextRow, start: int) -> Iterator[tuple[int, int]]:
    """For each token of each continuation the place that predicts it, and the token; `start`: place of the context."""
    last, behind = start + len(row.context) - 1, start + len(row.context)
    for continuation in row.continuations:
        for i, token in enumerate(continuation):
            yield (last if i == 0 else behind + i - 1), token
        behind += max(0, len(continuation) - 1)


def build_branch_mask(branches: Tensor) -> Tensor:
    """Booleans (B, 1, T, T): a position attends to earlier ones of the context (branch 0) and of its own branch."""
    own = branches[:, :, None] == branches[:, None, :]
    return (own | (branches == 0)[:, None, :]).tril()[:, None]


def score_tokens(vlm: VLM, hidden: Tensor, asked: Sequence[tuple[int, int]]) -> tuple[list[float], list[bool]]:
    """Log-probability of each asked token, and whether it is the likeliest; `hidden` (N, D), asked by place in it."""
    order = {place: number for number, place in enumerate(dict.fromkeys(place for place, _ in asked))}
    used = hidden[torch.tensor(list(order), dtype=torch.long, device=hidden.device)]
    by_place: list[list[tuple[int, int]]] = [[] for _ in order]  # which of the asked, and its token
    for number, (place, token) in enumerate(asked):
        by_place[order[place]].append((number, token))
    scores, hits = [0.0] * len(asked), [False] * len(asked)
    at_once = max(1, MAX_LOGITS // vlm.lm.config.vocabulary)
    for start in range(0, len(order), at_once):
        logits = vlm.lm.compute_logits(used[start : start + at_once])
        wanted = [
            (row, number, token) for row, part in enumerate(by_place[start : start + at_once]) for number, token in part
        ]
        rows, numbers, tokens = zip(*wanted, strict=True)
        index = torch.tensor(rows, device=hidden.device)
        of_tokens = torch.tensor(tokens, device=hidden.device)
        found = logits.log_softmax(dim=-1)[index, of_tokens].double().tolist()
        greedy = (logits.argmax(dim=-1)[index] == of_tokens).tolist()
        for number, score, hit in zip(numbers, found, greedy, strict=True):
            scores[number], hits[number] = score, hit
    return scores, hits


def sum_by_continuation(lengths: Sequence[int], scores: Sequence[float], hits: Sequence[bool]) -> list[Likelihood]:
    """Token scores of several continuations, one after the other, to one likelihood for each."""
    answers, start = [], 0
    for length in lengths:
        end = start + length
        answers.append(Likelihood(sum(scores[start:end]), all(hits[start:end])))
        start = end
    return answers
