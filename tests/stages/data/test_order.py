"""The order of samples: passes that hold each once, and neighbours from few shards."""

import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.data.order import ShardOrder, hash_numbers, permute_index

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(any)


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, window=st.integers(1, 15), seed=st.integers(0, 2**32), epoch=st.integers(0, 5))
def test_each_pass_holds_each_sample_once(sizes: list[int], window: int, seed: int, epoch: int) -> None:
    order = ShardOrder(sizes, window=window, seed=seed)
    size = sum(sizes)
    assert sorted(order.compute_sample(epoch * size + place) for place in range(size)) == list(range(size))


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, window=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_a_window_has_samples_of_its_shards_alone(sizes: list[int], window: int, seed: int) -> None:
    order = ShardOrder(sizes, window=window, seed=seed)
    size = sum(sizes)
    shard_of = [shard for shard, count in enumerate(sizes) for _ in range(count)]
    numbers = [order.compute_window(position) for position in range(2 * size)]
    assert numbers == sorted(numbers)
    for position, number in enumerate(numbers):
        shards = order.list_window_shards(number)
        assert len(shards) <= window
        assert shard_of[order.compute_sample(position)] in shards
    windows_of_a_pass = -(-len(sizes) // window)
    for epoch in range(2):
        met = [s for n in range(windows_of_a_pass) for s in order.list_window_shards(epoch * windows_of_a_pass + n)]
        assert sorted(met) == list(range(len(sizes)))


@settings(max_examples=30, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 2**32), positions=st.lists(st.integers(0, 10**12), min_size=1, max_size=20))
def test_a_position_is_found_whatever_was_asked_before(sizes: list[int], seed: int, positions: list[int]) -> None:
    used = ShardOrder(sizes, window=3, seed=seed)
    for position in positions:
        assert used.compute_sample(position) == ShardOrder(sizes, window=3, seed=seed).compute_sample(position)


def test_passes_seeds_and_shards_differ_in_order() -> None:
    order, other = (ShardOrder([50] * 40, window=8, seed=seed) for seed in (7, 8))
    passes = [[order.compute_sample(epoch * 2000 + place) for place in range(2000)] for epoch in range(2)]
    assert passes[0] != passes[1]
    assert passes[0] != [other.compute_sample(place) for place in range(2000)]
    first_shards = [index // 50 for index in passes[0][:400]]
    assert len(set(first_shards)) == 8
    # samples of a window are mixed: neighbours are of the same shard about once in eight
    same = sum(one == after for one, after in pairwise(first_shards))
    assert 20 < same < 90


def test_the_order_is_that_of_every_machine() -> None:
    order = ShardOrder([3, 0, 5, 2, 9], window=2, seed=124)
    assert [order.compute_sample(place) for place in range(19)] == [
        8, 2, 1, 0, 9, 12, 4, 3, 11, 15, 5, 7, 13, 17, 16, 10, 18, 6, 14,
    ]  # fmt: skip


def test_a_store_of_ten_thousand_shards_is_ordered_at_once() -> None:
    order = ShardOrder([8_192] * 10_000, window=16, seed=1)
    assert order.size == 81_920_000
    shards = {order.compute_sample(5 * 81_920_000 + place) // 8_192 for place in range(0, 16 * 8_192, 101)}
    assert len(shards) == 16


def test_text_is_read_without_torch() -> None:
    code = "import sys, stages.data.packing, stages.data.text, stages.data.workers; sys.exit('torch' in sys.modules)"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_mixing_goes_on_from_what_was_mixed() -> None:
    assert (
        hash_numbers(1, 2, 3) == hash_numbers(2, 3, state=hash_numbers(1)) == hash_numbers(3, state=hash_numbers(1, 2))
    )
    assert hash_numbers(1, 2, 3) == 0xD0734750FDE362B3


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000, 4097])
def test_a_permutation_holds_each_index_once(size: int) -> None:
    first, second, other = ([permute_index(i, size, *key) for i in range(size)] for key in ((7, 0), (7, 1), (8, 0)))
    for order in (first, second, other):
        assert sorted(order) == list(range(size))
    if size >= 64:
        assert first != second != list(range(size))
        assert first != other


def test_a_permutation_reaches_every_place_about_equally_often() -> None:
    counts = Counter(permute_index(0, 10, seed, 0) for seed in range(5000))
    assert all(400 < counts[place] < 600 for place in range(10))
