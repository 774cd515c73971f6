"""What evaluation asks of a model: greedy answers and log-likelihoods, in batches, with or without an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.openlm import KeyValueCache
from stages.vlm import VLM


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Of a continuation, given its context."""

    log_probability: float
    """Sum over the continuation's tokens, natural logarithm."""
    is_greedy: bool
    """Whether greedy decoding would have given the continuation."""


@torch.inference_mode()
def greedy(
    vlm: VLM,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_token: int,
    features: Tensor | None = None,
    batch_size: int = 32,
) -> list[list[int]]:
    """The most likely tokens after each prompt, without `stop_token`, at most `max_new_tokens` of them.

    `features` (N, I, F): one image for each prompt, placed before it; None for text alone. Prompts of one batch are
    padded on the left and sorted by length; the answers come in the order of the prompts.
    """
    vlm.eval()
    answers: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        images = features[chosen] if features is not None else None
        batch = greedy_batch(vlm, [prompts[i] for i in chosen], images, max_new_tokens, stop_token)
        for i, answer in zip(chosen, batch, strict=True):
            answers[i] = answer
    return answers


def greedy_batch(
    vlm: VLM, prompts: Sequence[Sequence[int]], features: Tensor | None, max_new_tokens: int, stop_token: int
) -> list[list[int]]:
    """One batch of `greedy`: a first pass over the prompts, then one position at a time behind the cache."""
    embeddings, visible = left_padded(vlm, prompts, features)
    length = embeddings.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=embeddings.device).tril()
    # a padding position sees itself alone: a row with nothing to see would be NaN
    mask = (causal & visible[:, None, :]) | torch.eye(length, dtype=torch.bool, device=embeddings.device)
    cache = KeyValueCache()
    hidden = vlm.lm.hidden(embeddings, mask=mask[:, None], cache=cache)
    answers: list[list[int]] = [[] for _ in prompts]
    open_answers = set(range(len(prompts)))
    for step in range(max_new_tokens):
        tokens = vlm.lm.logits(hidden[:, -1]).argmax(dim=-1)
        for i, token in enumerate(tokens.tolist()):
            if token == stop_token:
                open_answers.discard(i)
            elif i in open_answers:
                answers[i].append(token)
        if not open_answers or step == max_new_tokens - 1:
            break
        visible = torch.cat((visible, visible.new_ones(len(prompts), 1)), dim=1)
        hidden = vlm.lm.hidden(vlm.lm.embed(tokens[:, None]), mask=visible[:, None, None], cache=cache)
    return answers


def left_padded(vlm: VLM, prompts: Sequence[Sequence[int]], features: Tensor | None) -> tuple[Tensor, Tensor]:
    """Embeddings (B, T, D) of image and prompt, ending together, and which positions are not padding (B, T)."""
    device = vlm.lm.output.weight.device
    images = vlm.image_tokens if features is not None else 0
    lengths = [images + len(prompt) for prompt in prompts]
    if min(lengths) == 0:
        raise ValueError("an empty prompt without an image gives nothing to continue")
    longest = max(lengths)
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
    starts = longest - torch.tensor(lengths)
    visible = torch.arange(longest) >= starts[:, None]
    places = None
    if features is not None:
        places = (torch.arange(len(prompts)) * longest + starts)[:, None] + torch.arange(images)
        places, features = places.to(device), features.to(device)
    return vlm.embed(tokens.to(device), features, places), visible.to(device)


@torch.inference_mode()
def log_likelihoods(
    vlm: VLM,
    requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    features: Tensor | None = None,
    batch_tokens: int = 8_192,
) -> list[Likelihood]:
    """Of each (context, continuation), both token ids; the context needs a token unless there is an image.

    `features` (N, I, F): one image for each request, placed before the context. Requests are batched by length, up to
    `batch_tokens` positions at once, and answered in their order.
    """
    vlm.eval()
    answers: list[Likelihood | None] = [None] * len(requests)
    images = vlm.image_tokens if features is not None else 0
    lengths = [images + len(context) + len(continuation) for context, continuation in requests]
    order = sorted(range(len(requests)), key=lambda i: -lengths[i])
    while order:
        count = max(1, batch_tokens // max(1, lengths[order[0]]))
        chosen, order = order[:count], order[count:]
        part = features[chosen] if features is not None else None
        for i, answer in zip(chosen, likelihood_batch(vlm, [requests[i] for i in chosen], part), strict=True):
            answers[i] = answer
    return [answer for answer in answers if answer is not None]


def likelihood_batch(
    vlm: VLM, requests: Sequence[tuple[Sequence[int], Sequence[int]]], features: Tensor | None
) -> list[Likelihood]:
    """One batch of `log_likelihoods`, padded on the right: what follows a position does not reach it."""
    device = vlm.lm.output.weight.device
    images = vlm.image_tokens if features is not None else 0
    longest = images + max(len(context) + len(continuation) for context, continuation in requests) - 1
    tokens = torch.zeros(len(requests), longest, dtype=torch.long)
    asked: list[tuple[int, int, int]] = []  # row, position that predicts, token predicted
    for row, (context, continuation) in enumerate(requests):
        if images + len(context) == 0:
            raise ValueError("a continuation needs a context of at least one token, or an image")
        text = [*context, *continuation][:-1]
        tokens[row, images : images + len(text)] = torch.tensor(text, dtype=torch.long)
        first = images + len(context) - 1
        asked += [(row, first + i, token) for i, token in enumerate(continuation)]
    places = None
    if features is not None:
        places = (torch.arange(len(requests)) * longest)[:, None] + torch.arange(images)
        places, features = places.to(device), features.to(device)
    hidden = vlm.lm.hidden(vlm.embed(tokens.to(device), features, places))
    rows, columns, wanted = torch.tensor(asked, dtype=torch.long, device=device).reshape(-1, 3).unbind(dim=1)
    logits = vlm.lm.logits(hidden[rows, columns])
    scores = logits.log_softmax(dim=-1).gather(1, wanted[:, None])[:, 0].double().tolist()
    hits = (logits.argmax(dim=-1) == wanted).tolist()
    return summed([len(continuation) for _, continuation in requests], scores, hits)


def summed(lengths: Sequence[int], scores: Sequence[float], hits: Sequence[bool]) -> list[Likelihood]:
    """Token scores of several continuations, one after the other, to one likelihood for each."""
    answers, start = [], 0
    for length in lengths:
        end = start + length
        answers.append(Likelihood(sum(scores[start:end]), all(hits[start:end])))
        start = end
    return answers
