"""`loss_mean`: which gradient it gives, on how many processes and in how many passes soever, and what the log says."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that every torch user knows

from stages.checkpoint.files import read_result_checkpoint
from stages.config import PretrainConfig
from stages.data.collate import MicroBatch
from stages.distributed import DistributedContext
from stages.job_file import JobFile
from stages.models.attention import build_attention_mask
from stages.training.metrics import LossWindow, SourceSums
from stages.training.pretrain import build_batches, build_vlm
from stages.vision.feature_extractor import load_feature_extractor
from tests.stages.ranks import RankServer
from tests.stages.training.test_pretrain import StopAfter, metrics_of, numbers_of
from tests.stages.training.training_case import (
    CONTEXT,
    SMOOTH_ADAMW,
    World,
    assert_equal_weights,
    final_weights,
    finetune_config,
    image_config,
    make_world,
    run_here,
    same_bits,
    schedule,
    text_config,
)

RULES = ["tokens", "sequences"]
Z_LOSS = 1e-2
ROWS = 12


def one_step(rule: str, **changes: Any) -> dict[str, Any]:
    """A single step whose first moment is the gradient itself."""
    optimizer = {"beta1": 0.0, "gradient_clip": 1e9}
    once = schedule(1, warmup_steps=0)
    return image_config(
        1, loss_mean=rule, batch_sequences=ROWS, z_loss=Z_LOSS, optimizer=optimizer, schedule=once, **changes
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def server() -> Iterator[RankServer]:
    server = RankServer()
    yield server
    server.close()


def gradients_of(job: JobFile) -> dict[str, Tensor]:
    moments = read_result_checkpoint(job.run).read_moments()
    return {name.removeprefix("exp_avg."): tensor for name, tensor in moments.items() if name.startswith("exp_avg.")}


def assert_close_gradients(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """To 1e-5 of each tensor's norm."""
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert float((found[name] - gradient).norm()) <= 1e-5 * float(gradient.norm()), name


def rows_of(parts: Sequence[MicroBatch]) -> Tensor:
    """(M,): the row of each target of a whole batch."""
    found, before = [], 0
    for part in parts:
        places = torch.arange(part.tokens.numel()) if part.target_positions is None else part.target_positions
        found.append(before + places // part.tokens.shape[1])
        before += len(part.tokens)
    return torch.cat(found)


def expected_gradients(job: JobFile, rule: str) -> dict[str, Tensor]:
    """By the rule's own words, in float64: the mean over all targets, or the mean over rows of each one's mean."""
    config = cast("PretrainConfig", job.config)
    world = DistributedContext(torch.device("cpu"))
    torch.manual_seed(config.seed)
    vlm = build_vlm(job, config).double()
    assert config.vision is not None
    extractor = load_feature_extractor(job, config.vision, world.device)
    parts = build_batches(job, config, world, extractor).take_batch().micro_batches
    found = []
    for part in parts:
        seen = part
        if part.image_inputs:
            seen = part.attach_images(extractor.extract_features(part.image_inputs).double())
        hidden = vlm.lm.compute_hidden(
            vlm.embed(seen.tokens, seen.images, seen.image_positions),
            mask=build_attention_mask(seen.documents, "sdpa") if seen.documents is not None else None,
        ).flatten(0, 1)
        used = hidden if seen.target_positions is None else hidden[seen.target_positions]
        logits = F.linear(used, vlm.lm.output.weight)
        found.append(
            F.cross_entropy(logits, seen.targets, reduction="none") + Z_LOSS * logits.logsumexp(dim=-1).square()
        )
    values = torch.cat(found)
    if rule == "tokens":
        loss = values.mean()
    else:
        rows = rows_of(parts)
        loss = torch.stack([values[rows == row].mean() for row in range(ROWS)]).mean()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return {name: parameter.grad.float() for name, parameter in vlm.iter_named_weights() if parameter.grad is not None}


@pytest.mark.parametrize("rule", RULES)
def test_processes_and_passes_do_not_change_the_gradient(world: World, server: RankServer, rule: str) -> None:
    config = one_step(rule)
    whole = world.run(f"{rule}-1-1", "pretrain", config, micro_batch_tokens=ROWS * CONTEXT)
    wanted = expected_gradients(whole, rule)
    assert_close_gradients(gradients_of(whole), wanted)
    for ranks, passes, parallel in [(1, 3, "ddp"), (4, 1, "ddp"), (4, 3, "ddp"), (4, 3, "fsdp")]:
        rows = ROWS // ranks // passes
        job = world.job(
            f"{rule}-{ranks}-{passes}-{parallel}", "pretrain", config,
            micro_batch_tokens=rows * CONTEXT, parallel=parallel, loss_chunk_tokens=0 if parallel == "ddp" else 7,
        )  # fmt: skip
        assert server.run(job, ranks) == [0] * ranks
        assert_close_gradients(gradients_of(job), wanted)
        [mine], [theirs] = metrics_of(job), metrics_of(whole)
        for name in ("loss", "losses", "target_share", "weight_share", "loss_share"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-5), name


def test_the_two_rules_are_two_gradients(world: World) -> None:
    one, other = (
        gradients_of(world.run(f"apart-{rule}", "pretrain", one_step(rule)))["output.weight"] for rule in RULES
    )
    assert (one - other).norm() > 0.1 * one.norm()


def test_the_log_says_what_each_source_weighs(world: World) -> None:
    """What a source weighs is counted from the rows themselves."""
    job = world.run("weights", "pretrain", one_step("sequences"))
    by_tokens = world.run("weights-by-tokens", "pretrain", one_step("tokens"))
    config = cast("PretrainConfig", job.config)
    parts = build_batches(job, config, DistributedContext(torch.device("cpu")), None).take_batch().micro_batches
    sources = torch.cat([part.sources for part in parts])
    row_sources = {int(row): int(source) for row, source in zip(rows_of(parts), sources, strict=True)}
    [line], [other] = metrics_of(job), metrics_of(by_tokens)
    captions = sum(row_sources.values()) / ROWS
    targets = sources.double().mean().item()
    assert line["weight_share"]["captions"] == pytest.approx(captions)
    assert line["target_share"]["captions"] == pytest.approx(targets)
    assert captions > targets + 0.05
    assert other["weight_share"] == other["target_share"] == pytest.approx(line["target_share"])
    # by tokens a source's part of the loss is its mean times its part of the targets
    losses = {name: other["losses"][name] * other["target_share"][name] for name in other["losses"]}
    assert other["loss_share"]["captions"] == pytest.approx(losses["captions"] / sum(losses.values()))
    assert sum(line["loss_share"].values()) == pytest.approx(1)
    # plain means over targets by both rules: they are what scaling laws are fitted to
    assert line["losses"] == pytest.approx(other["losses"], rel=1e-5)


def test_shares_are_means_over_steps() -> None:
    window = LossWindow(["text", "captions"])
    steps = [([30.0, 8.0], [10, 4], [3.0, 1.0], [9.0, 2.0]), ([40.0, 2.0], [20, 1], [3.0, 1.0], [6.0, 2.0])]
    for number, (entropies, targets, weights, weighted) in enumerate(steps):
        window.add(1.0, 1.0, 1e-3)
        window.add_sources(
            SourceSums(entropies=entropies, targets=targets, weights=weights, weighted_entropies=weighted)
        )
        if number == 0:  # as after a restart
            window, before = LossWindow(["text", "captions"]), window.dump_state()
            window.restore(before)
    line = window.flush()
    assert line["losses"] == {"text": 70 / 30, "captions": 2.0}
    assert line["target_share"] == {"text": 30 / 35, "captions": 5 / 35}
    assert line["weight_share"] == {"text": 0.75, "captions": 0.25}
    assert line["loss_share"] == {"text": 15 / 19, "captions": 4 / 19}


def test_a_window_of_an_earlier_version_goes_on() -> None:
    window = LossWindow(["text", "captions"])
    window.restore({"losses": [2.0], "sums": [4.0, 3.0], "counts": [2, 1]})
    window.add(1.0, 1.0, 1e-3)
    window.add_sources(
        SourceSums(entropies=[1.0, 1.0], targets=[1, 1], weights=[1.0, 1.0], weighted_entropies=[1.0, 1.0])
    )
    assert window.flush()["weight_share"] == {"text": 0.5, "captions": 0.5}


def test_a_run_by_sequences_resumes_to_the_bit(world: World) -> None:
    config = image_config(10, loss_mean="sequences")
    whole = world.run("whole", "pretrain", config)
    job = world.job("stopped", "pretrain", config, checkpoint_steps=3)
    assert not run_here(job, StopAfter(5))
    assert run_here(job)
    assert same_bits(final_weights(job), final_weights(whole))
    assert numbers_of(job) == numbers_of(whole)


def test_a_fine_tune_by_sequences_resumes_to_the_bit_and_is_not_the_one_by_tokens(world: World) -> None:
    base = world.run("base", "pretrain", image_config(2))
    config = finetune_config(loss_mean="sequences", max_length=128)
    whole = world.run("tuned", "finetune", config, [base])
    job = world.job("tuned-stopped", "finetune", config, [base], checkpoint_steps=1)
    assert not run_here(job, StopAfter(3))
    assert run_here(job)
    assert same_bits(final_weights(job), final_weights(whole))
    assert "weight_share" not in metrics_of(whole)[0]  # of a single source there is nothing to tell
    by_tokens = world.run("tuned-by-tokens", "finetune", {**config, "loss_mean": "tokens"}, [base])
    assert not same_bits(final_weights(by_tokens), final_weights(whole))


def test_on_text_alone_both_rules_are_one_loss(world: World) -> None:
    """Every sequence has as many targets: what a plan counts on when it gives both one key."""
    runs = [
        world.run(f"text-{rule}", "pretrain", text_config(4, loss_mean=rule, optimizer=SMOOTH_ADAMW)) for rule in RULES
    ]
    assert_equal_weights(final_weights(runs[0]), final_weights(runs[1]))
