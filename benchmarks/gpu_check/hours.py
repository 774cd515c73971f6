"""Hours are wall time x devices: a small real job through the local back end, beside a clock outside of it.

On one GPU the job asks for two cores, too, so that hours of several devices are seen. Never run with a GPU. The CPU
half runs the same job on one core.
"""

import time
from collections.abc import Iterator, Sequence

from benchmarks.gpu_check.parts import Check, Row
from jobs.job import Job, Resources
from jobs.local.runner import LocalRunner, StopRequest
from jobs.local.slots import Slots, query_visible_gpus
from jobs.reconcile.attempts import read_attempts
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.store.paths import Store
from stages.config import STAGES
from sweep.plan.manifest import Manifest, write_manifest
from sweep.results.evidence import compute_job_hours
from tests.stages.training.training_case import text_config, write_text

SWEEP = "hours"
SLACK_SECONDS, SLACK_SHARE = 3.0, 0.05
"""Outside of an attempt: the start of its interpreter, and the runner's rounds of half a second."""


def measure(check: Check) -> Iterator[Row]:
    """A row for each kind of device; it fails where the recorded hours differ from the clock by more than the slack."""
    cores, gpus = (2, 1) if check.on_gpu else (1, 0)
    devices = (query_visible_gpus() or ["0"]) if check.on_gpu else []
    store = Store(check.folder / "store")
    write_text(check.folder / "text", shards=2, sequences=100)
    job = Job(
        key="small",
        stage="pretrain",
        version=STAGES["pretrain"].version,
        phase="pretrain",
        parents=(),
        config=text_config(120),
        cells=(),
        settings={"device": check.device, "compile": False},
        resources=Resources(cpus=cores, gpus_per_node=gpus),
    )
    data = {"text": str(check.folder / "text")}
    write_manifest(
        store.locate_sweep(SWEEP).manifest, Manifest(sweep=SWEEP, backend="local", data=data, cells=(), jobs=(job,))
    )
    runner = LocalRunner(SweepSnapshot([job], store, SWEEP), slots=Slots(cores, devices[:1]))
    began = time.monotonic()
    end = runner.run(StopRequest())
    wall = time.monotonic() - began
    used = compute_job_hours(job, read_attempts(store.locate_run(job.stage, job.key), live=False)).used
    state = runner.snapshot.statuses[job.key].state.value
    reasons = ([end.problem] if end.problem else []) + ([f"the job is {state}"] if state != "done" else [])
    yield compare_seconds(f"CPU cores: {cores}", 3600 * used.cpu_hours, wall, cores, reasons)
    if gpus:
        yield compare_seconds(f"GPUs: {gpus}", 3600 * used.gpu_hours, wall, gpus, reasons)


def compare_seconds(name: str, recorded: float, wall: float, devices: int, reasons: Sequence[str]) -> Row:
    """Passed where `recorded` is wall time x devices, to within the slack, and there are no `reasons` against it."""
    apart, allowed = abs(recorded - devices * wall), devices * (SLACK_SECONDS + SLACK_SHARE * wall)
    found = [*reasons, *([f"{apart:.1f} s apart; at most {allowed:.1f} are expected"] if apart > allowed else [])]
    return Row(
        name=name,
        passed=not found,
        reason="; ".join(found),
        figures={"wall_seconds": wall, "devices": devices, "recorded_device_seconds": recorded},
    )
