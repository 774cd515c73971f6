"""A stage that waits for the job's other processes ends when it is asked to, and not after its 30 minutes."""

import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.stages.training.training_case import make_world, start, text_config


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_process_that_waits_for_its_peers_ends_at_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    job = make_world(tmp_path).job("waits", "pretrain", text_config(4), device="cpu")
    with socket.socket() as silent:  # in the place of the first rank, which never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(120)
        launcher = {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "MASTER_PORT": silent.getsockname()[1]}
        for name, value in {**launcher, "MASTER_ADDR": "127.0.0.1"}.items():
            monkeypatch.setenv(name, str(value))
        process = start(job)
        with silent.accept()[0]:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            process.send_signal(number)
            _, errors = process.communicate(timeout=600)
    assert process.returncode == 75, errors
    assert "asked to stop while it waited for the job's other processes" in errors
    assert not job.error.exists()
