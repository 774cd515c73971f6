from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.config import LanguageModel, Vision
from stages.distributed import DistributedContext
from stages.models.attention import KeyValueCache
from stages.models.generation import generate_greedy
from stages.models.likelihood import compute_log_likelihoods
from stages.models.linear import is_onednn_available, pack_weights, set_matmul_backend
from stages.models.vlm import VLM
from tests.stages.thread_ranks import on_threads

PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [1], [3, 3, 3, 3], [9, 8]]


def small_vlm() -> VLM:
    torch.manual_seed(0)
    model = LanguageModel(d_model=48, layers=2, heads=4, vocabulary=60)
    return VLM(model, Vision(encoder="patches-16-32")).eval()


def full_forward(vlm: VLM, tokens: list[int], image: Tensor | None, start: Sequence[int] = ()) -> Tensor:
    """Logits of one sequence (start, image, tokens), with no cache, padding or batch."""
    if image is None:
        embeddings = vlm.embed(torch.tensor([[*start, *tokens]]))
    else:
        parts = (vlm.lm.embed(torch.tensor([start], dtype=torch.long)), vlm.project(image[None]))
        embeddings = torch.cat((*parts, vlm.lm.embed(torch.tensor([tokens], dtype=torch.long))), dim=1)
    logits: Tensor = vlm.lm(inputs_embeds=embeddings)
    return logits[0]


def naive_answer(vlm: VLM, prompt: list[int], image: Tensor | None, stop: int, start: Sequence[int] = ()) -> list[int]:
    answer: list[int] = []
    while len(answer) < 8:
        token = int(full_forward(vlm, prompt + answer, image, start)[-1].argmax())
        if token == stop:
            break
        answer.append(token)
    return answer


@torch.inference_mode()
def test_batched_generation_behind_a_cache_equals_one_full_forward_a_token() -> None:
    vlm = small_vlm()
    images = torch.randn(5, 4, 768)
    for features in (None, images):
        expected = [
            naive_answer(vlm, prompt, None if features is None else features[i], stop=-1)
            for i, prompt in enumerate(PROMPTS)
        ]
        for batch_size in (1, 2, 5):
            answers = generate_greedy(
                vlm, PROMPTS, max_new_tokens=8, stop_token=-1, features=features, batch_size=batch_size
            )
            assert answers == expected


@torch.inference_mode()
@pytest.mark.parametrize("start", [(7,), (7, 11)])
def test_start_of_text_tokens_stand_before_the_image(start: tuple[int, ...]) -> None:
    vlm = small_vlm()
    images = torch.randn(5, 4, 768)
    for features in (None, images):
        expected = [
            naive_answer(vlm, prompt, None if features is None else features[i], -1, start)
            for i, prompt in enumerate(PROMPTS)
        ]
        for batch_size in (1, 5):
            answers = generate_greedy(
                vlm, PROMPTS, max_new_tokens=8, stop_token=-1, start=start, features=features, batch_size=batch_size
            )
            assert answers == expected
    behind = generate_greedy(
        vlm, [[*start, *prompt] for prompt in PROMPTS], max_new_tokens=8, stop_token=-1, features=images
    )
    assert behind != expected, "where they stand matters"


@torch.inference_mode()
def test_ranks_share_the_batches_and_all_have_every_answer() -> None:
    vlm = small_vlm()
    requests = [(prompt, continuation) for prompt in PROMPTS for continuation in ([5, 6], [7])]
    expected = generate_greedy(vlm, PROMPTS, max_new_tokens=8, stop_token=-1, batch_size=2)
    likely = compute_log_likelihoods(vlm, requests, batch_tokens=8)

    def answered(world: DistributedContext) -> Any:
        found = generate_greedy(vlm, PROMPTS, max_new_tokens=8, stop_token=-1, batch_size=2, peers=world.peers)
        return found, compute_log_likelihoods(vlm, requests, batch_tokens=8, peers=world.peers)

    for ranks in (2, 7):
        assert on_threads(ranks, answered) == [(expected, likely)] * ranks


def test_packed_weights_change_rounding_alone() -> None:
    vlm = small_vlm()
    set_matmul_backend(vlm, "onednn")
    tokens, ones = torch.randint(0, 60, (3, 9)), torch.ones(1, 48)
    with torch.no_grad():
        before = vlm.lm(tokens)
        pack_weights(vlm)
        torch.testing.assert_close(vlm.lm(tokens), before, rtol=1e-5, atol=1e-5)
        for weight in vlm.lm.parameters():
            weight.zero_()
        assert bool(vlm.lm.output(ones).any()) == is_onednn_available(), "the packed copy is what is used"
    assert not vlm.lm.output(ones).any(), "and not where gradients are wanted"


@torch.inference_mode()
def test_an_answer_ends_before_the_stop_token() -> None:
    vlm = small_vlm()
    free = generate_greedy(vlm, PROMPTS, max_new_tokens=8, stop_token=-1)
    stop = free[0][-1]
    expected = [naive_answer(vlm, prompt, None, stop) for prompt in PROMPTS]
    assert generate_greedy(vlm, PROMPTS, max_new_tokens=8, stop_token=stop) == expected
    assert len(expected[0]) < 8


@torch.inference_mode()
def test_an_image_alone_can_be_described() -> None:
    vlm = small_vlm()
    image = torch.randn(1, 4, 768)
    assert generate_greedy(vlm, [[]], max_new_tokens=8, stop_token=-1, features=image)[0] == naive_answer(
        vlm, [], image[0], -1
    )


@torch.inference_mode()
def test_log_likelihoods_sum_the_continuations_tokens() -> None:
    vlm = small_vlm()
    requests = [([1, 2], [3, 4]), ([5], [6, 7, 8]), ([9, 9, 9], [1])]
    images = torch.randn(3, 4, 768)
    for features in (None, images):
        answers = compute_log_likelihoods(vlm, requests, features=features, batch_tokens=16)
        for i, (context, continuation) in enumerate(requests):
            logits = full_forward(vlm, context + continuation, None if features is None else features[i])
            ahead = logits[-len(continuation) - 1 : -1].log_softmax(dim=-1)
            expected = ahead[range(len(continuation)), continuation].sum()
            torch.testing.assert_close(torch.tensor(answers[i].log_probability), expected, rtol=1e-5, atol=1e-5)
            assert answers[i].is_greedy == (ahead.argmax(dim=-1).tolist() == continuation)


@torch.inference_mode()
def test_the_greedy_answer_is_told_as_greedy() -> None:
    vlm = small_vlm()
    answer = generate_greedy(vlm, [[1, 2, 3]], max_new_tokens=4, stop_token=-1)[0]
    assert compute_log_likelihoods(vlm, [([1, 2, 3], answer)])[0].is_greedy


@torch.inference_mode()
def test_rows_that_have_ended_leave_the_batch_and_change_no_answer() -> None:
    vlm = small_vlm()
    prompts = [[i, i + 1] for i in range(12)]
    free = generate_greedy(vlm, prompts, max_new_tokens=8, stop_token=-1)
    stop = Counter(token for answer in free for token in set(answer[1:])).most_common(1)[0][0]
    expected = [naive_answer(vlm, prompt, None, stop) for prompt in prompts]
    widths: list[int] = []
    handle = vlm.lm.norm.register_forward_hook(lambda _, __, output: widths.append(output.shape[0]))
    assert generate_greedy(vlm, prompts, max_new_tokens=8, stop_token=stop) == expected
    handle.remove()
    assert len({len(answer) for answer in expected}) > 1
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 12


@torch.inference_mode()
def test_an_answer_can_end_by_a_rule_of_the_caller() -> None:
    vlm = small_vlm()
    free = generate_greedy(vlm, PROMPTS, max_new_tokens=8, stop_token=-1)
    found = generate_greedy(vlm, PROMPTS, max_new_tokens=8, stop_token=-1, ended=lambda answer: len(answer) == 3)
    assert found == [answer[:3] for answer in free]


@torch.inference_mode()
def test_a_cache_that_is_outgrown_keeps_what_it_held() -> None:
    cache = KeyValueCache(capacity=2)
    parts = [torch.randn(3, 2, length, 4) for length in (1, 1, 3, 1, 6)]
    for part in parts:
        keys, values = cache.extend(0, part, -part)
    whole = torch.cat(parts, dim=2)
    assert torch.equal(keys, whole)
    assert torch.equal(values, -whole)
    assert cache.length == 12
    cache.keep(torch.tensor([2, 0]))
    keys, _ = cache.extend(0, parts[0][[2, 0]], parts[0][[2, 0]])
    assert torch.equal(keys, torch.cat((whole, parts[0]), dim=2)[[2, 0]])
