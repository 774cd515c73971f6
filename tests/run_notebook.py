"""Runs a notebook in a folder, from its first cell to its last, and writes it with what came out.

python -m tests.run_notebook docs/notebooks/first-sweep.ipynb FOLDER OUT
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

SECONDS = 240
"""That a cell may take."""


def main(source: str, folder: str, out: str) -> None:
    notebook = nbformat.read(source, as_version=4)  # type: ignore[no-untyped-call]  # nbformat has no types
    nbformat.validate(notebook)
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}})
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times, which differ from run to run
    notebook.metadata.get("language_info", {}).pop("version", None)
    nbformat.write(notebook, Path(out))  # type: ignore[no-untyped-call]  # nbformat has no types


if __name__ == "__main__":
    main(*sys.argv[1:])
