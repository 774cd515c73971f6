"""Which conversations a batch takes: epochs that are whole, and never an image beside a text alone."""

from hypothesis import given, settings
from hypothesis import strategies as st

from stages.data.order import ExampleOrder

MARKS = st.lists(st.booleans(), min_size=1, max_size=60)


@given(marks=MARKS, batch_size=st.integers(1, 20), seed=st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_an_epoch_holds_each_example_once_and_a_batch_one_kind(marks: list[bool], batch_size: int, seed: int) -> None:
    order = ExampleOrder(marks, batch_size=batch_size, seed=seed)
    steps = order.batches_per_epoch
    kinds = (sum(marks), len(marks) - sum(marks))
    assert steps == sum(-(-count // batch_size) for count in kinds)
    for epoch in range(3):
        batches = [order.select_examples(epoch * steps + step) for step in range(steps)]
        assert sorted(index for batch in batches for index in batch) == list(range(len(marks)))
        for batch in batches:
            assert 1 <= len(batch) <= batch_size
            assert len({marks[index] for index in batch}) == 1
        sizes = [{len(batch) for batch in batches if marks[batch[0]] is kind} for kind in (True, False)]
        assert all(not size or max(size) - min(size) <= 1 for size in sizes)


def test_each_epoch_and_seed_has_an_order_of_its_own() -> None:
    marks = [index % 3 > 0 for index in range(300)]
    order = ExampleOrder(marks, batch_size=16, seed=7)
    steps = order.batches_per_epoch
    epochs = [[order.select_examples(epoch * steps + step) for step in range(steps)] for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    again = ExampleOrder(marks, batch_size=16, seed=7)
    assert [again.select_examples(step) for step in range(steps)] == epochs[0]
    assert [ExampleOrder(marks, batch_size=16, seed=8).select_examples(step) for step in range(steps)] != epochs[0]
    kinds = [marks[batch[0]] for batch in epochs[0]]
    assert kinds != sorted(kinds)  # the two kinds come mixed,
    assert kinds != sorted(kinds, reverse=True)
    assert kinds != [marks[batch[0]] for batch in epochs[1]]  # each time in another way
