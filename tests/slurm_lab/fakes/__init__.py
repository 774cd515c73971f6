"""Programs in the place of a stage, of an engine or of sbatch, for tests on the cluster."""

from pathlib import Path

FOLDER = Path(__file__).parent
