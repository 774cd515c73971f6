"""A cluster is started once a process, and tests of several folders ask for it: so its fixtures are a plugin."""

pytest_plugins = ["tests.slurm_lab.fixtures"]
