"""Greedy answers in batches, with or without an image: one pass over the prompts, then one position at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.distributed import SINGLE_PROCESS, Communicator, map_batches
from stages.models.attention import KeyValueCache, build_padding_mask
from stages.models.vlm import VLM

StopCondition = Callable[[Sequence[int]], bool]
"""Whether an answer, given all of its tokens so far, is complete."""

COMPACT_BELOW = 0.75
"""Share of a batch's rows that are open, below which the others are taken out: to move the cache costs a step or so."""


@torch.inference_mode()
def generate_greedy(
    vlm: VLM,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_token: int,
    start: Sequence[int] = (),
    features: Tensor | None = None,
    batch_size: int = 32,
    ended: StopCondition | None = None,
    peers: Communicator = SINGLE_PROCESS,
    note: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """The most likely tokens after each prompt, without `stop_token`, at most `max_new_tokens` of them.

    `start`: token ids before everything else, the same for all prompts. `features` (N, I, F): one image for each
    prompt, between `start` and the prompt; None for text alone. `ended` ends an answer too, after the token that made
    it complete. Prompts of one batch are padded on the left and sorted by length; the answers come in the order of the
    prompts. `peers` ask the same and share the batches; each gets all answers. `note`: see `map_batches`.
    """
    vlm.eval()
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))

    def answered(chosen: list[int]) -> dict[int, list[int]]:
        images = features[chosen] if features is not None else None
        batch = PromptBatch([prompts[i] for i in chosen], tuple(start), images)
        found = generate_batch(vlm, batch, max_new_tokens=max_new_tokens, stop_token=stop_token, ended=ended)
        return dict(zip(chosen, found, strict=True))

    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    answers = map_batches(batches, answered, peers, note)
    return [list(answers[i]) for i in range(len(prompts))]


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """What a batch begins with: in each row `start`, its image, its text."""

    texts: Sequence[Sequence[int]]
    start: tuple[int, ...] = ()
    features: Tensor | None = None
    """(B, I, F), or None for rows without images."""

    def embed(self, vlm: VLM) -> tuple[Tensor, Tensor]:
        """Embeddings (B, T, D) that end together, padded on the left, and which positions are no padding (B, T)."""
        device = vlm.lm.output.weight.device
        before, images = len(self.start), vlm.image_tokens if self.features is not None else 0
        lengths = [before + images + len(text) for text in self.texts]
        if min(lengths) == 0:
            raise ValueError("an empty prompt without an image gives nothing to continue")
        longest = max(lengths)
        tokens = torch.zeros(len(lengths), longest, dtype=torch.long)
        for row, text in enumerate(self.texts):
            first = longest - lengths[row]
            tokens[row, first : first + before] = torch.tensor(self.start, dtype=torch.long)
            tokens[row, longest - len(text) :] = torch.tensor(text, dtype=torch.long)
        starts = longest - torch.tensor(lengths)
        visible = torch.arange(longest) >= starts[:, None]
        if self.features is None:
            return vlm.embed(tokens.to(device)), visible.to(device)
        places = (torch.arange(len(lengths)) * longest + starts + before)[:, None] + torch.arange(images)
        return vlm.embed(tokens.to(device), self.features.to(device), places.to(device)), visible.to(device)


def generate_batch(
    vlm: VLM, prompts: PromptBatch, *, max_new_tokens: int, stop_token: int, ended: StopCondition | None
) -> list[list[int]]:
    """One batch of `generate_greedy`; rows whose answer has ended leave it."""
    batch, hidden = prefill_prompts(vlm, prompts, max_new_tokens)
    answers: list[list[int]] = [[] for _ in prompts.texts]
    open_rows = set(range(len(prompts.texts)))
    for step in range(max_new_tokens):
        tokens = vlm.lm.compute_logits(hidden[:, -1]).argmax(dim=-1)
        for row, token in zip(batch.rows, tokens.tolist(), strict=True):
            if token == stop_token:
                open_rows.discard(row)
            elif row in open_rows:
                answers[row].append(token)
                if ended is not None and ended(answers[row]):
                    open_rows.discard(row)
        if not open_rows or step == max_new_tokens - 1:
            break
        if len(open_rows) < COMPACT_BELOW * len(batch.rows):
            tokens = batch.compact(open_rows, tokens)
        hidden = batch.decode_next(vlm, tokens)
    return answers


@dataclass(slots=True, kw_only=True)
class DecodingState:
    """A batch between two positions."""

    rows: list[int]
    """The prompt that each row answers."""
    cache: KeyValueCache
    visible: Tensor | None
    """Booleans (B, S + new tokens): what is not padding; None where no row is padded."""
    lengths: Tensor
    """Positions of each row (B,), padding left out."""

    def decode_next(self, vlm: VLM, tokens: Tensor) -> Tensor:
        """Hidden states (B, 1, D) of the next tokens (B,)."""
        seen = self.visible[:, None, None, : self.cache.length + 1] if self.visible is not None else None
        embeddings = vlm.lm.embed(tokens[:, None])
        hidden = vlm.lm.compute_hidden(embeddings, mask=seen, cache=self.cache, positions=self.lengths[:, None])
        self.lengths = self.lengths + 1
        return hidden

    def compact(self, open_rows: set[int], tokens: Tensor) -> Tensor:
        """Takes out all rows but those of `open_rows`; returns the tokens of the rows that stay."""
        places = [place for place, row in enumerate(self.rows) if row in open_rows]
        kept = torch.tensor(places, device=tokens.device)
        self.rows = [self.rows[place] for place in places]
        self.cache.keep(kept)
        self.lengths = self.lengths[kept]
        self.visible = self.visible[kept] if self.visible is not None else None
        return tokens[kept]


def prefill_prompts(vlm: VLM, prompts: PromptBatch, max_new_tokens: int) -> tuple[DecodingState, Tensor]:
    """A batch after its prompts, and their hidden states (B, T, D)."""
    embeddings, visible = prompts.embed(vlm)
    rows, lengths = list(range(len(embeddings))), visible.sum(dim=1)
    cache = KeyValueCache(capacity=embeddings.shape[1] + max_new_tokens - 1)
    if bool(visible.all()):
        hidden = vlm.lm.compute_hidden(embeddings, cache=cache)
        return DecodingState(rows=rows, cache=cache, visible=None, lengths=lengths), hidden
    positions = (visible.long().cumsum(dim=1) - 1).clamp(min=0)
    hidden = vlm.lm.compute_hidden(embeddings, mask=build_padding_mask(visible), cache=cache, positions=positions)
    visible = torch.cat((visible, visible.new_ones(len(rows), max_new_tokens)), dim=1)
    return DecodingState(rows=rows, cache=cache, visible=visible, lengths=lengths), hidden
