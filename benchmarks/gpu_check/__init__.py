"""One command for the day when a GPU is at hand: `python -m benchmarks.gpu_check`, or `make gpu-check`.

`parts.py` lists what is checked and measured. `__main__.py` runs each part as a process of its own (`part_process.py`),
within a total of minutes, and writes one JSON and one table after each (`report.py`). The other files are the parts.
docs/gpu-check.md says what comes out.

Nothing here has run on a GPU yet. Each part takes its device as an argument, so that tests run the same lines on a CPU.
"""
