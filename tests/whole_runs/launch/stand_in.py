"""Stands in for `python -m MODULE FLAGS` where the real one would take long: meets its peers, counts epochs, minds SIGTERM.

Writes a line a start into $STAND_IN_LOG, and the number of epochs that are done into WORKDIR/epoch, which it goes on from.
`--wait_after=N` stays in epoch N until it is stopped or WORKDIR/go is there, `--fail=STATUS` ends with that status, `--epochs=N`
says when it is done.
"""

import json
import os
import pathlib
import signal
import socket
import sys
import time


def flag(name, otherwise=None):
    """The last value of a flag, as absl has it."""
    found = [word.partition("=")[2] for word in sys.argv[2:] if word.startswith(f"--{name}=")]
    return found[-1] if found else otherwise


def meet_the_others():
    """Waits for all processes of the run at the coordinator's port; two of one number, or one too few, do not meet."""
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
    """Does what the flags say."""
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    interesting = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "XLA_FLAGS", "SLURM_ARRAY_TASK_ID")
    start = {"argv": sys.argv[1:], "cwd": os.getcwd(), **{name: os.environ.get(name) for name in interesting}}
    with open(os.environ["STAND_IN_LOG"], "a") as log:
        log.write(json.dumps(start) + "\n")
    workdir = pathlib.Path(flag("workdir", "runs/stand_in"))
    progress = workdir / "epoch"
    epoch = int(progress.read_text()) if progress.exists() else 0
    meet_the_others()
    if status := flag("fail"):
        print("error: no such thing", file=sys.stderr)
        return int(status)
    first = os.environ.get("JAX_PROCESS_ID", "0") == "0"
    workdir.mkdir(parents=True, exist_ok=True)
    print(f"begins after epoch {epoch}", flush=True)
    while epoch < int(flag("epochs", "3")):
        epoch += 1
        if first:
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
