"""Stands in for `python -m MODULE FLAGS`: meets its peers, counts epochs, and stops on SIGTERM.

Appends one line per start to $STUB_STARTS, and writes the number of finished epochs to WORKDIR/epoch, from which it resumes.
`--epochs=N` sets the number of epochs (3). `--wait_after=N` waits in epoch N until it is stopped or WORKDIR/go exists.
`--fail=STATUS` ends with that status.
"""

import json
import os
import pathlib
import signal
import socket
import sys
import time

RECORDED = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "XLA_FLAGS", "SLURM_ARRAY_TASK_ID")


def flag(name, default=None):
    """The last value of a flag, as with absl."""
    values = [word.partition("=")[2] for word in sys.argv[2:] if word.startswith(f"--{name}=")]
    return values[-1] if values else default


def meet_peers():
    """Waits for all processes of the run at the coordinator's port; fails if a process is missing or its number is used twice."""
    address, processes = os.environ.get("JAX_COORDINATOR_ADDRESS"), int(os.environ.get("JAX_NUM_PROCESSES", "1"))
    if processes == 1:
        return
    process, port = int(os.environ["JAX_PROCESS_ID"]), int(address.rpartition(":")[2])
    if process:
        while True:
            try:
                peer = socket.create_connection(("127.0.0.1", port), timeout=30)
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        peer.sendall(b"%d\n" % process)
        assert peer.recv(1) == b"!"
        return
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(30)
        peers = [server.accept()[0] for _ in range(processes - 1)]
        numbers = sorted(int(peer.makefile().readline()) for peer in peers)
        assert numbers == list(range(1, processes)), numbers
        for peer in peers:
            peer.sendall(b"!")


def main():
    """Runs the epochs; returns the exit status."""
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    workdir = pathlib.Path(flag("workdir", "runs/stub"))
    progress = workdir / "epoch"
    epoch = int(progress.read_text()) if progress.exists() else 0
    start = {"argv": sys.argv[1:], "cwd": os.getcwd(), "epoch": epoch, **{name: os.environ.get(name) for name in RECORDED}}
    with open(os.environ["STUB_STARTS"], "a") as log:
        log.write(json.dumps(start) + "\n")
    meet_peers()
    if status := flag("fail"):
        print("error: planned to fail", file=sys.stderr)
        return int(status)
    is_first = os.environ.get("JAX_PROCESS_ID", "0") == "0"
    workdir.mkdir(parents=True, exist_ok=True)
    print(f"begins after epoch {epoch}", flush=True)
    while epoch < int(flag("epochs", "3")):
        epoch += 1
        if is_first:
            progress.with_suffix(".new").write_text(str(epoch))
            progress.with_suffix(".new").replace(progress)
        while epoch == int(flag("wait_after", "-1")) and not stopped and not (workdir / "go").exists():
            time.sleep(0.02)
        if stopped:
            print("stopped with a checkpoint", flush=True)
            return 130
    print("done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
