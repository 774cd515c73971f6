import time
from tests.slurm.test_failure_policy import *
from tests.slurm.test_failure_policy import toys_of


def test_x(toys_of, slurm):
    toys = toys_of("a", steps=20, step_seconds=0.1)
    t = toys.ids()["a"][0]
    slurm.output("scancel", t)
    for i in range(8):
        print(
            slurm.run(
                "sacct",
                "-n",
                "-P",
                "-D",
                "-X",
                "-o",
                "JobID,JobName,State,Start,End,ElapsedRaw,NodeList,Submit",
                "-j",
                t,
            ).stdout,
            slurm.run(
                "sacct",
                "-n",
                "-P",
                "-D",
                "-X",
                "-o",
                "JobID,JobName,State,Start,End,ElapsedRaw,NodeList,Submit",
                "-j",
                t.split("_")[0],
            ).stdout,
        )
        r = toys.tick()
        print({k: v for k, v in r["states"].items() if v}, r["sent"])
        time.sleep(1.5)
    print(toys.notes().endings, toys.ids())
