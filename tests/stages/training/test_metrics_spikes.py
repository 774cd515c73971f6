import json
import random

import pytest

from stages.training.metrics import MIN_LOSSES, SPIKE_WINDOW, LossSpikeDetector


def noisy(count: int, seed: int = 1) -> list[float]:
    chance = random.Random(seed)
    return [3.0 + chance.gauss(0, 0.05) for _ in range(count)]


def test_a_loss_far_above_the_last_ones_is_a_spike_and_noise_is_none() -> None:
    spikes = LossSpikeDetector(6.0)
    assert not any(spikes.add(loss) for loss in noisy(500))
    assert not spikes.add(3.2)  # four deviations
    assert spikes.add(3.5)
    assert spikes.in_a_row == 1
    assert not spikes.add(2.0)  # below is no spike
    assert spikes.in_a_row == 0


def test_the_first_losses_fall_fast_and_are_no_spikes() -> None:
    spikes = LossSpikeDetector(6.0)
    falling = [10.0 * 0.99**step for step in range(300)]
    assert not any(spikes.add(loss) for loss in falling)
    few = LossSpikeDetector(6.0)
    assert not any(few.add(loss) for loss in [*noisy(MIN_LOSSES - 1), 100.0])


def test_earlier_spikes_hide_no_later_one() -> None:
    spikes = LossSpikeDetector(6.0)
    found = [spikes.add(loss + (5.0 if step % 10 == 9 else 0.0)) for step, loss in enumerate(noisy(SPIKE_WINDOW))]
    assert [step for step, spike in enumerate(found) if spike] == list(range(39, SPIKE_WINDOW, 10))


def test_a_loss_that_stays_high_becomes_the_normal_one() -> None:
    spikes = LossSpikeDetector(6.0)
    for loss in noisy(SPIKE_WINDOW):
        spikes.add(loss)
    found = [spikes.add(loss + 1) for loss in noisy(SPIKE_WINDOW, seed=2)]
    assert all(found[:32])
    assert not any(found[SPIKE_WINDOW // 2 + 32 :])


def test_an_equal_loss_is_no_spike_where_nothing_scatters() -> None:
    spikes = LossSpikeDetector(6.0)
    assert not any(spikes.add(2.0) for _ in range(100))
    assert not spikes.add(2.01)
    assert spikes.add(2.02)


def test_none_is_looked_for_with_no_sigmas() -> None:
    spikes = LossSpikeDetector(0.0)
    assert not any(spikes.add(loss) for loss in [*noisy(200), 1e9])


@pytest.mark.parametrize("cut", [10, 40, 150])
def test_an_interrupted_run_finds_the_same_spikes(cut: int) -> None:
    losses = [loss + (1.0 if step % 37 in {0, 1} else 0.0) for step, loss in enumerate(noisy(300))]
    whole = LossSpikeDetector(6.0)
    wanted = [(whole.add(loss), whole.in_a_row) for loss in losses]
    first = LossSpikeDetector(6.0)
    found = [(first.add(loss), first.in_a_row) for loss in losses[:cut]]
    second = LossSpikeDetector(6.0)
    second.restore(json.loads(json.dumps(first.dump_state())))
    found += [(second.add(loss), second.in_a_row) for loss in losses[cut:]]
    assert found == wanted
    assert max(row for _, row in wanted) == 2
