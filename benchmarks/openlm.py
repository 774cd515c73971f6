"""Training speed on one CPU thread beside open_lm's own code: tokens per CPU second, both sides in one run.

    python benchmarks/openlm.py --checkout FOLDER [--cases 8.9m-fp32 8.9m-bf16 11m-fp32] [--steps 8] [--repeat 3]

FOLDER is a work tree of mlfoundations/open_lm (branch prismatic_openlm runs as it is); OPEN_LM_PYTHON names an
interpreter with its packages where this one lacks them. Both sides train the same shapes on the same shard, 4,096
tokens a step, with qk-norm, gain-only norms, z-loss 1e-4 and clipping: open_lm as `python -m open_lm.main`, ours as
`python -m stages JOB_JSON` with its default settings. A figure is the difference of a long and a short process (user
and system time, data workers included), so that imports do not count; the sides take turns, and the best of the
repetitions stands.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from stages.processor import describe_processor  # noqa: E402 - found from the root
from tests.stages.models.openlm_checkout import Case, options, run_open_lm, write_shard  # noqa: E402 - found from the root

SHORT = 2
"""Steps of the short run."""
MIDDLE = Case(
    "8.9m-fp32", d_model=256, layers=8, heads=4, vocabulary=4_096, context=256, batch=16, steps=SHORT, warmup=1
)
SMALL = replace(MIDDLE, name="11m-fp32", d_model=96, vocabulary=50_432, context=512, batch=8)
CASES = {case.name: case for case in (MIDDLE, replace(MIDDLE, name="8.9m-bf16", precision="amp_bfloat16"), SMALL)}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True, help="work tree of open_lm")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--steps", type=int, default=8, help="steps between the short and the long run (default: 8)")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions (default: 3)")
    given = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, one thread")
    print(describe_processor())
    print(f"{'case':10} {'open_lm':>9} {'ours':>9} {'ratio':>6}   tokens per CPU second")
    for name in given.cases:
        case = CASES[name]
        pairs = [measured(case, given.checkout.resolve(), given.steps) for _ in range(given.repeat)]
        theirs, ours = (given.steps * case.batch * case.context / min(side) for side in zip(*pairs, strict=True))
        print(f"{name:10} {theirs:9,.0f} {ours:9,.0f} {ours / theirs:6.2f}", flush=True)


def measured(case: Case, checkout: Path, steps: int) -> tuple[float, float]:
    """CPU seconds of `steps` steps, open_lm's and ours."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        short, long = (replace(case, name=f"{case.name}-{count}", steps=count) for count in (SHORT, SHORT + steps))
        write_shard(folder / "data", long)
        theirs = [run_open_lm(checkout, options(one, folder)) for one in (short, long)]
        ours = [run_ours(one, folder) for one in (short, long)]
    return theirs[1] - theirs[0], ours[1] - ours[0]


def run_ours(case: Case, folder: Path) -> float:
    """CPU seconds of a pretrain job, start to end."""
    run = folder / "runs" / case.name
    run.mkdir(parents=True)
    config = {
        "model": case.model.model_dump(),
        "sources": [{"name": "text", "kind": "text"}],
        "context": case.context,
        "batch_sequences": case.batch,
        "schedule": case.schedule.model_dump(),
        "optimizer": case.optimizer.model_dump(),
        "z_loss": case.z_loss,
        "precision": "fp32" if case.precision == "fp32" else "bf16",
    }
    paths = {"checkpoints": "checkpoints", "metrics": "metrics.jsonl", "result": "result.json", "error": "error.json"}
    data = {"text": str(folder / "data")}
    job = {"format": 1, "key": run.name, "stage": "pretrain", "config": config, "data": data, "paths": paths}
    (run / "job.json").write_text(json.dumps(job))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "stages", str(run / "job.json")]
    subprocess.run(command, cwd=ROOT, check=True, env=environment, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
