"""kill -9 at random moments, and resume: the bits of an undisturbed run.

Some of a GPU's kernels add up in no fixed order, so that two undisturbed runs may differ, too. Then both runs are made
once more with kernels of a fixed order (`tests.stages.training.fixed_order`), and those have to agree. Never run on a
GPU.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.gpu_check.parts import Check, Row
from tests.stages.training.kills import compare_killed_run
from tests.stages.training.training_case import STAGES_PROGRAM

FIXED_ORDER_PROGRAM = ("-m", "tests.stages.training.fixed_order")


def measure(check: Check) -> Iterator[Row]:
    """One row for eager runs, or with the variant `defaults` one for runs with the settings that a GPU takes itself."""
    defaults = "defaults" in check.variant
    settings: dict[str, object] = {"device": check.device}
    if not defaults:
        settings |= {"compile": False, "attention": "sdpa"}
    kills = 3 if check.on_gpu and not defaults else 1
    row = run_kills(check.folder / "usual", "kernels as usual", kills, settings, STAGES_PROGRAM)
    if row.figures["equal_bits"] or not check.on_gpu:
        yield row
        return
    fixed = run_kills(check.folder / "fixed", "kernels of a fixed order", kills, settings, FIXED_ORDER_PROGRAM)
    yield Row(
        name=row.name,
        reason=f"{row.reason}: kernels without a fixed order of sums, or an error in resuming; the next row tells",
        figures=row.figures,
    )
    yield fixed


def run_kills(folder: Path, name: str, kills: int, settings: Mapping[str, object], program: tuple[str, ...]) -> Row:
    """An undisturbed run, and one that is killed."""
    on_gpu = settings["device"] == "cuda"
    found = compare_killed_run(
        folder,
        kills=kills,
        seed=1,
        workers=1,
        steps_a_kill=150 if on_gpu else 100,  # a second's or more
        longest_wait=0.3,
        precision="bf16" if on_gpu else "fp32",
        program=program,
        **settings,
    )
    reasons = [f"{', '.join(found.differing)} differ"] if found.differing else []
    reasons += ["the run ended before it could be killed"] if not found.kills else []
    return Row(
        name=name,
        passed=not reasons,
        reason="; ".join(reasons),
        figures={"kills": found.kills, "steps": found.steps, "equal_bits": not found.differing},
    )
