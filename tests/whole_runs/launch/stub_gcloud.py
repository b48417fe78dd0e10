"""Stands in for `gcloud compute tpus`: slices are folders in $STUB_CLOUD, and each worker is a local process with its own HOME.

Accepts only the commands and flags that launch/tpu_vm.sh uses. $STUB_CLOUD/plan.json may set:
  workers          number of workers per slice (2)
  states           states to report before READY, one per `describe`
  fail             {"tpu-vm create": [STATUS, ...]}: exit statuses of the next calls of that verb
  preempt_at       a file; once it contains `epoch`, the slice is preempted during the ssh command
  cut_at           a file; once it contains `epoch`, the connection breaks, and the file `go` is created in the same folder
"""

import argparse
import contextlib
import json
import os
import pathlib
import sys
import time

# Other modules are imported where they are used: most calls are `describe`, which has to start fast.

CLOUD = pathlib.Path(os.environ["STUB_CLOUD"])
PLAN = CLOUD / "plan.json"


def plan():
    return json.loads(PLAN.read_text()) if PLAN.exists() else {}


def change_plan(**values):
    PLAN.write_text(json.dumps({**plan(), **values}))


def error(message, status=1):
    print(f"ERROR: (gcloud.compute.tpus) {message}", file=sys.stderr)
    sys.exit(status)


class Slice:
    """A TPU VM or slice: the folder with its state and the homes of its workers."""

    def __init__(self, name):
        self.name, self.folder = name, CLOUD / "slices" / name

    @property
    def state(self):
        file = self.folder / "state"
        return file.read_text() if file.exists() else None

    @state.setter
    def state(self, value):
        (self.folder / "state").write_text(value)

    def create(self):
        if self.state:
            error(f"ALREADY_EXISTS: Resource '{self.name}' already exists")
        self.folder.mkdir(parents=True)
        for worker in range(plan().get("workers", 2)):
            (self.folder / f"worker{worker}").mkdir()
        self.state = "READY"

    def homes(self, workers):
        if self.state != "READY":
            error(f'This TPU has state "{self.state}", so it cannot be currently connected to.')
        homes = sorted(self.folder.glob("worker*"))
        return homes if workers == "all" else [homes[int(workers)]]

    def kill(self):
        """Kills the runs on all workers, as a machine that disappears does."""
        import signal

        for file in self.folder.glob("worker*/mfl_jax/.tpu_run/pid"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(file.read_text()), signal.SIGKILL)

    def delete(self):
        if not self.state:
            error(f"NOT_FOUND: Resource '{self.name}' was not found")
        import shutil

        self.kill()
        shutil.rmtree(self.folder)


def find_free_port():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ssh(args):
    import subprocess

    tpu, port = Slice(args.tpu), find_free_port()
    homes = tpu.homes(args.worker)
    running = []
    for number, home in enumerate(homes):
        environment = {
            "HOME": str(home),
            "PATH": f"{os.environ['STUB_WORKER_BIN']}:/usr/local/bin:/usr/bin:/bin",
            "STUB_WORKER": str(number),
            # Real workers read these from the metadata of the slice.
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(len(homes)),
            "JAX_PROCESS_ID": str(number),
        }
        passed_on = ("STUB_", "JAX_COMPILATION", "JAX_PERSISTENT", "JAX_DISABLE")
        environment |= {name: value for name, value in os.environ.items() if name.startswith(passed_on)}
        running.append(subprocess.Popen(["bash", "-c", args.command], cwd=home, env=environment))
    while any(process.poll() is None for process in running):
        time.sleep(0.02)
        for interruption in ("preempt_at", "cut_at"):
            file = plan().get(interruption)
            if file and pathlib.Path(file).exists() and pathlib.Path(file).read_text() == str(plan()["epoch"]):
                change_plan(**{interruption: None})
                if interruption == "preempt_at":
                    tpu.kill()
                    tpu.state = "PREEMPTED"
                for process in running:
                    process.kill()
                    process.wait()
                if interruption == "cut_at":
                    pathlib.Path(file).with_name("go").touch()
                sys.exit(255)
    for process in running:
        if process.returncode:
            sys.exit(process.returncode)


def scp(args):
    import subprocess

    *sources, target = args.paths
    name = (target if ":" in target else sources[0]).partition(":")[0]
    for home in Slice(name).homes(args.worker):
        paths = [str(home / path.partition(":")[2]) if ":" in path else path for path in args.paths]
        status = subprocess.run(["cp", *(["-r"] if args.recurse else []), *paths], check=False).returncode
        if status:
            sys.exit(status)


def parse_command():
    """Parses the command line; a flag that ends in `!` below takes no value."""
    parser = argparse.ArgumentParser("gcloud compute tpus", allow_abbrev=False)
    groups = parser.add_subparsers(required=True, dest="group")
    flags = {
        "tpu-vm": {
            "create": ["--accelerator-type", "--version", "--spot!"],
            "describe": ["--format"],
            "delete": [],
            "ssh": ["--worker", "--command"],
            "scp": ["--worker", "--recurse!"],
        },
        "queued-resources": {
            "create": ["--accelerator-type", "--runtime-version", "--node-id", "--spot!"],
            "describe": ["--format"],
            "delete": ["--force!"],
        },
    }
    for group, verbs in flags.items():
        subparsers = groups.add_parser(group).add_subparsers(required=True, dest="verb")
        for verb, names in verbs.items():
            command = subparsers.add_parser(verb, allow_abbrev=False)
            command.add_argument("paths" if verb == "scp" else "tpu", nargs="+" if verb == "scp" else None)
            command.add_argument("--zone", required=True)
            command.add_argument("--project")
            command.add_argument("--quiet", action="store_true", required=True)
            for name in names:
                if name.endswith("!"):
                    command.add_argument(name[:-1], action="store_true")
                else:
                    command.add_argument(name, required=True)
    return parser.parse_args(sys.argv[3:])


def describe(args):
    tpu = Slice(args.tpu)
    is_queued = (tpu.folder / "queued").exists()
    if not tpu.state or (args.group == "queued-resources" and not is_queued):
        error(f"NOT_FOUND: Resource '{args.tpu}' was not found")
    states = plan().get("states", [])
    if states and tpu.state == "READY":
        # While a request waits, its slice does not exist.
        if args.group == "tpu-vm" and is_queued:
            error(f"NOT_FOUND: Resource '{args.tpu}' was not found")
        change_plan(states=states[1:])
        return states[0]
    return {"READY": "ACTIVE", "PREEMPTED": "SUSPENDED"}[tpu.state] if args.group == "queued-resources" else tpu.state


def main():
    if sys.argv[1:3] != ["compute", "tpus"]:
        error(f"Invalid choice: {sys.argv[1:3]}", 2)
    args = parse_command()
    CLOUD.mkdir(exist_ok=True)
    with open(CLOUD / "calls", "a") as calls:
        calls.write(json.dumps(sys.argv[3:]) + "\n")
    verb = f"{args.group} {args.verb}"
    failures = plan().get("fail", {})
    if failures.get(verb):
        status, *rest = failures[verb]
        change_plan(fail={**failures, verb: rest})
        if status:
            error("planned to fail", status)
    if args.verb == "ssh":
        ssh(args)
    elif args.verb == "scp":
        scp(args)
    elif args.verb == "create":
        Slice(args.tpu).create()
        if args.group == "queued-resources":
            (Slice(args.tpu).folder / "queued").touch()
    elif args.verb == "delete":
        if args.group == "tpu-vm" and (Slice(args.tpu).folder / "queued").exists():
            error("a slice of a queued resource can only be deleted together with it")
        Slice(args.tpu).delete()
    else:
        print(describe(args))


if __name__ == "__main__":
    main()
