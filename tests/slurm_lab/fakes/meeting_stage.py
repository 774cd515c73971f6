"""A stage of two ranks that meet at the launcher's address, as torch does: the first listens, the other connects.

Run as `python -S meeting_stage.py JOB_JSON` by jobs.attempt.rank. The first waits for a file `go` in the store before
it writes the result, so that several jobs listen at one time.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path

JOB = Path(sys.argv[1])
SPEC = json.loads(JOB.read_text())
PLACE = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
SECONDS = 60


def listen() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("", PLACE[1]))
        server.listen()
        server.settimeout(SECONDS)
        connection, _ = server.accept()
        met = connection.recv(100).decode()
        (JOB.parent / "met.json").write_text(json.dumps({"port": PLACE[1], "with": met}))
        deadline = time.monotonic() + SECONDS
        while not (JOB.parents[3] / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    result = {"format": 1, "key": SPEC["key"], "stage": SPEC["stage"], "files": {}}
    (JOB.parent / SPEC["paths"]["result"]).write_text(json.dumps(result))


def connect() -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with socket.create_connection(PLACE) as connection:
                connection.sendall(SPEC["key"].encode())
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    if os.environ["RANK"] == "0":
        listen()
    else:
        connect()
