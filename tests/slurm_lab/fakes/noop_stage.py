"""A stage that does nothing and says that it is done: for tests of the machinery with thousands of jobs.

Run as `python -S noop_stage.py JOB_JSON`; keeps to docs/formats.md.
"""

import json
import os
import sys
import time
from pathlib import Path

JOB = Path(sys.argv[1])


def main() -> int:
    """Writes result.json beside job.json."""
    job = json.loads(JOB.read_text())
    result = JOB.parent / job["paths"]["result"]
    content = {"format": 1, "key": job["key"], "stage": job["stage"], "seconds": 0.0, "files": {}}
    unfinished = result.with_name(f".{result.name}.{os.getpid()}")
    unfinished.write_text(json.dumps({**content, "finished_at": time.time()}))
    unfinished.rename(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
