import json
from itertools import pairwise

import numpy as np
import pytest

from stages.data.mixture import ContinuedOrder, Mixture, compute_next_position
from stages.data.packing import PackedSequence
from stages.data.progress import DataState
from stages.data.sample import NO_LOSS, SampleSource
from stages.errors import DataError
from tests.stages.data.mixture_run import MixtureRun
from tests.stages.data.synthetic_sources import CONTEXT, Pairs, Texts


def mixture(  # noqa: PLR0917 - the tests' own shorthand
    sources: list[SampleSource],
    shares: list[float],
    by: str = "tokens",
    limit: int = 100,
    stripes: int = 8,
    packing: str = "packed",
) -> MixtureRun:
    mixture = Mixture(
        sources, shares, by=by, context=CONTEXT, stripes=stripes, seed=1, bad_samples_limit=limit, packing=packing
    )
    return MixtureRun(mixture)


def take(data: MixtureRun, batches: int) -> None:
    for _ in range(batches):
        data.take_batch()


def content(batch: list[PackedSequence]) -> list[tuple[int, list[int], list[int]]]:
    return [(sequence.source, sequence.tokens.tolist(), sequence.targets.tolist()) for sequence in batch]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5, 0.9])
def test_the_tokens_of_ten_thousand_samples_follow_the_shares_exactly(share: float) -> None:
    data = mixture([Texts(), Pairs()], [1 - share, share])
    counted = [0, 0]
    while sum(progress.samples for progress in data.progress) < 10_000:
        for sequence in data.take_batch():
            counted[sequence.source] += len(sequence.tokens)
    assert counted == [progress.tokens for progress in data.progress]
    # behind by less than two sequences of 64 positions, whatever the length of the run
    assert abs(counted[1] - share * sum(counted)) < 2 * CONTEXT
    pairs = data.progress[1]
    assert pairs.image_tokens == 4 * pairs.images == 4 * pairs.samples


@pytest.mark.parametrize(("by", "packing", "samples"), [("tokens", "packed", 100_000), ("samples", "padded", 30_000)])
def test_a_hundred_thousand_samples_are_accounted_for_one_by_one(by: str, packing: str, samples: int) -> None:
    shares = [0.7, 0.2, 0.1]
    sources: list[SampleSource] = [
        Texts(size=9_000, shards=30),
        Pairs(size=5_000, bad=(5, 77), shards=40),
        Pairs("others"),
    ]
    data = mixture(sources, shares, by=by, stripes=16, packing=packing)
    totals = {unit: [0, 0, 0] for unit in ("samples", "tokens", "images", "image_tokens")}
    while sum(totals["samples"]) < samples:
        for sequence in data.take_batch():
            assert len(sequence.tokens) <= CONTEXT
            starts = [0, *(np.flatnonzero(np.diff(sequence.documents)) + 1).tolist()]
            totals["samples"][sequence.source] += len(starts)
            totals["tokens"][sequence.source] += len(sequence.targets)
            # Pairs begin with image tokens, four to a document, of which three have no loss
            unlearned = int((sequence.targets == NO_LOSS).sum())
            totals["images"][sequence.source] += unlearned // 3
            totals["image_tokens"][sequence.source] += unlearned // 3 * 4
        for share, amount in zip(shares, totals[by], strict=True):
            # the sequence that is next in turn, and a little: a plan expects of a batch's sequences what is usual
            assert abs(amount - share * sum(totals[by])) <= (1.5 * CONTEXT if by == "tokens" else 1)
    for unit, counts in totals.items():
        assert counts == [getattr(progress, unit) for progress in data.progress]
    assert data.progress[1].bad in ([5, 77], [77, 5])


def test_shares_may_count_samples() -> None:
    data = mixture([Texts(), Pairs(), Texts("code")], [0.5, 0.3, 0.2], by="samples")
    take(data, 400)
    samples = [progress.samples for progress in data.progress]
    for share, count in zip((0.5, 0.3, 0.2), samples, strict=True):
        assert abs(count - share * sum(samples)) < 10


def test_every_prefix_of_the_run_follows_the_shares() -> None:
    data = mixture([Texts(), Pairs()], [0.75, 0.25])
    for _ in range(100):
        data.take_batch()
        total = sum(progress.tokens for progress in data.progress)
        assert abs(data.progress[1].tokens - 0.25 * total) < 2 * CONTEXT


def test_a_pass_over_a_source_meets_each_sample_once() -> None:
    data = mixture([Texts(size=80)], [1.0])
    seen = [int(sequence.tokens[0]) for _ in range(10) for sequence in data.take_batch()]
    assert sorted(seen) == list(range(80))
    again = [int(sequence.tokens[0]) for _ in range(10) for sequence in data.take_batch()]
    assert sorted(again) == list(range(80))
    assert again != seen


def test_whole_pairs_fill_a_sequence_and_none_is_lost() -> None:
    data = mixture([Pairs(size=64)], [1.0], stripes=1)
    sequences = [sequence for _ in range(40) for sequence in data.take_batch()]
    assert all(len(sequence.tokens) <= CONTEXT for sequence in sequences)
    fill = sum(len(sequence.tokens) for sequence in sequences) / (CONTEXT * len(sequences))
    assert fill > 0.8
    order = [token for sequence in sequences for _, token in document_ids(sequence)]
    assert sorted(order[:64]) == list(range(64))


def document_ids(sequence: PackedSequence) -> list[tuple[int, int]]:
    """(document, its target) of each document of a sequence."""
    rows = list(zip(sequence.documents.tolist(), sequence.targets.tolist(), strict=True))
    return [row for row, after in pairwise([*rows, (-1, -1)]) if row[0] != after[0]]


def test_a_run_goes_on_from_its_state_as_if_never_stopped() -> None:
    bad = (3, 50, 51)
    whole = mixture([Texts(), Pairs(bad=bad)], [0.6, 0.4])
    batches = [content(whole.take_batch()) for _ in range(20)]
    for cut in (1, 7, 19):
        before = mixture([Texts(), Pairs(bad=bad)], [0.6, 0.4])
        for _ in range(cut):
            before.take_batch()
        after = mixture([Texts(), Pairs(bad=bad)], [0.6, 0.4])
        after.state = DataState.from_state(json.loads(json.dumps(before.state.dump_state())))
        assert [content(after.take_batch()) for _ in range(20 - cut)] == batches[cut:]
        assert after.state == whole.state


def test_bad_samples_are_counted_once_and_skipped_up_to_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    data = mixture([Pairs(size=40, bad=(3, 7))], [1.0], limit=2)
    for _ in range(30):
        assert not {3, 7} & {token for sequence in data.take_batch() for token in sequence.targets.tolist()}
    assert sorted(data.progress[0].bad) == [3, 7]
    assert capsys.readouterr().err.count("skipped: sample 7 is bad") == 1
    data = mixture([Pairs(size=40, bad=(3, 7))], [1.0], limit=1)
    with pytest.raises(DataError, match="'captions': 2 bad samples; the limit is 1; the last: sample"):
        take(data, 30)


def test_a_source_of_bad_samples_alone_ends_in_an_error() -> None:
    with pytest.raises(DataError, match="every sample is bad"):
        mixture([Pairs(size=5, bad=tuple(range(5)))], [1.0]).take_batch()


@pytest.mark.parametrize("stripes", [1, 3, 8])
@pytest.mark.parametrize("cursors", [[0], [5], [2, 1, 1, 1], [3, 3, 3], [1, 0], [2, 2, 4, 2]])
def test_stripes_go_on_behind_the_last_position_that_an_earlier_run_has_read(cursors: list[int], stripes: int) -> None:
    read = {stripe + turn * len(cursors) for stripe, cursor in enumerate(cursors) for turn in range(cursor)}
    position = compute_next_position(cursors)
    assert position == max(read, default=-1) + 1
    own = ContinuedOrder(seed=0, shuffle_shards=1, position=position).compute_cursors(stripes)
    ahead = [stripe + turn * stripes for stripe, cursor in enumerate(own) for turn in range(cursor, cursor + 9)]
    assert sorted(ahead)[:9] == list(range(position, position + 9))


def test_a_source_that_goes_on_takes_the_order_of_before_and_the_others_their_own() -> None:
    """With another seed, batch and window than the run before had."""
    first = Mixture([Texts()], [1.0], by="tokens", context=CONTEXT, stripes=4, seed=1, bad_samples_limit=0)
    before = MixtureRun(first)
    take(before, 10)
    order = ContinuedOrder(
        seed=first.orders[0].seed, shuffle_shards=16, position=compute_next_position(before.progress[0].cursors)
    )
    assert order.position == 40
    second, fresh = (
        Mixture(
            [Pairs(), Texts()], [0.5, 0.5], by="tokens", context=CONTEXT, stripes=6, seed=2, bad_samples_limit=0,
            shuffle_shards=2, continued=given,
        )
        for given in ({"text": order}, {})
    )  # fmt: skip
    after, other = MixtureRun(second), MixtureRun(fresh)
    read = [sequence for _ in range(8) for sequence in after.take_batch()]
    apart = [sequence for _ in range(8) for sequence in other.take_batch()]
    numbers = [int(sequence.tokens[0]) for sequence in read if sequence.source == 1]
    del numbers[len(numbers) // 6 * 6 :]  # whole rounds of the stripes
    assert len(numbers) > 12
    stream = [second.packer.orders[1].compute_sample(position) for position in range(40, 40 + len(numbers))]
    assert sorted(numbers) == sorted(stream)
    assert content([each for each in read if each.source == 0]) == content([each for each in apart if each.source == 0])
