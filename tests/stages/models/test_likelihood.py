"""Continuations that share their context's forward pass get the numbers that each alone would have."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.config import LanguageModel, Vision
from stages.models import likelihood
from stages.models.likelihood import Likelihood, LikelihoodRequest, compute_log_likelihoods, group_by_context
from stages.models.vlm import VLM

torch.manual_seed(0)
VLM_60 = VLM(LanguageModel(d_model=48, layers=2, heads=4, vocabulary=60), Vision(encoder="patches-16-32")).eval()
TOKENS = st.lists(st.integers(0, 59), min_size=1, max_size=6)
CONTEXTS = ((1, 2, 3), (4,), (5, 6, 7, 8, 9, 10, 11))


def alone(request: LikelihoodRequest) -> Likelihood:
    """By hand: one sequence, no batch, no padding, no mask."""
    context, continuation = request
    with torch.inference_mode():
        logits = VLM_60.lm(torch.tensor([[*context, *continuation]]))[0, len(context) - 1 : -1]
    scores = logits.log_softmax(dim=-1)[range(len(continuation)), list(continuation)]
    return Likelihood(float(scores.double().sum()), logits.argmax(dim=-1).tolist() == list(continuation))


@settings(deadline=None, max_examples=25)
@given(
    requests=st.lists(st.tuples(st.sampled_from(CONTEXTS), TOKENS), min_size=1, max_size=12),
    batch_tokens=st.sampled_from((1, 16, 64, 1_024)),
)
def test_sharing_a_context_changes_no_likelihood(requests: list[LikelihoodRequest], batch_tokens: int) -> None:
    found = compute_log_likelihoods(VLM_60, requests, batch_tokens=batch_tokens)
    for request, answer in zip(requests, found, strict=True):
        expected = alone(request)
        assert answer.log_probability == pytest.approx(expected.log_probability, abs=1e-4)
        assert answer.is_greedy == expected.is_greedy


def test_one_token_choices_take_no_position_behind_their_context() -> None:
    (row,) = group_by_context([((1, 2, 3), [token]) for token in range(4)], share=True)
    assert (row.continuation_positions, row.is_branched) == (0, False)
    found = compute_log_likelihoods(VLM_60, [((1, 2, 3), [token]) for token in range(60)])
    assert sum(2.718281828**answer.log_probability for answer in found) == pytest.approx(1, abs=1e-4)
    assert sum(answer.is_greedy for answer in found) == 1


def test_a_context_with_very_many_continuations_takes_several_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "MAX_SHARED_POSITIONS", 8)
    requests: list[LikelihoodRequest] = [((1, 2), [i, i + 1, i + 2]) for i in range(10)]
    assert len(group_by_context(requests, share=True)) == 4
    monkeypatch.setattr(likelihood, "MAX_LOGITS", 180)  # three positions' logits at once
    for request, answer in zip(requests, compute_log_likelihoods(VLM_60, requests), strict=True):
        assert answer.log_probability == pytest.approx(alone(request).log_probability, abs=1e-4)


def test_requests_with_images_do_not_share() -> None:
    images = torch.randn(2, 4, 768)
    requests: list[LikelihoodRequest] = [((1, 2), (3, 4)), ((1, 2), (3, 4))]
    first, second = compute_log_likelihoods(VLM_60, requests, features=images)
    assert first != second
    assert compute_log_likelihoods(VLM_60, requests[:1], features=images[:1])[0].log_probability == pytest.approx(
        first.log_probability, abs=1e-4
    )


def test_a_continuation_without_context_or_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        compute_log_likelihoods(VLM_60, [([], [1])])
