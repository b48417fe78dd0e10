"""Stands in for sbatch, srun and scontrol: jobs, arrays and tasks are local processes. argv[1] is the name of the command.

$STUB_SLURM/plan.json may set `stop_at`, a file: once it contains `epoch`, the tasks get SIGTERM, as at a time limit.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

SLURM = pathlib.Path(os.environ["STUB_SLURM"])
PLAN = SLURM / "plan.json"


def sbatch():
    assert len(sys.argv) == 2, sys.argv
    script = sys.stdin.read()
    assert script.startswith("#!"), script
    header = script[: re.search(r"^(?!#)", script, re.MULTILINE).start()]
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", header, re.MULTILINE))
    first, last = map(int, options["array"].partition("%")[0].split("-")) if "array" in options else (0, 0)
    status = 0
    for task in range(first, last + 1):
        (SLURM / "requeued").unlink(missing_ok=True)
        job = int(os.environ["STUB_JOB"]) + task
        nodes = int(options["nodes"])
        variables = {
            "SLURM_JOB_ID": str(job),
            "SLURM_JOB_NUM_NODES": str(nodes),
            "SLURM_JOB_NODELIST": f"node[1-{nodes}]" if nodes > 1 else "node1",
        }
        if "array" in options:
            variables["SLURM_ARRAY_TASK_ID"] = str(task)
        if "cpus-per-task" in options:
            variables["SLURM_CPUS_PER_TASK"] = options["cpus-per-task"]
        for restart in range(100):
            if restart:
                variables["SLURM_RESTART_COUNT"] = str(restart)
            # Slurm runs a copy of the script in another folder.
            (SLURM / "slurm_script").write_text(script)
            status |= subprocess.run(["bash", SLURM / "slurm_script"], env={**os.environ, **variables}, check=False).returncode
            if not (SLURM / "requeued").exists() or "requeue" not in options:
                break
            (SLURM / "requeued").unlink()
            status = 0
    print(f"Submitted batch job {os.environ['STUB_JOB']}")
    return status


def srun():
    words = sys.argv[2:]
    options = {}
    while words[0].startswith("--"):
        name, _, value = words.pop(0)[2:].partition("=")
        options[name] = value
    with open(SLURM / "steps", "a") as steps:
        steps.write(json.dumps(options) + "\n")
    count = int(options["ntasks"])
    assert count == int(os.environ["SLURM_JOB_NUM_NODES"]) == int(options["nodes"])
    tasks = []
    for number in range(count):
        variables = {"SLURM_PROCID": str(number), "SLURM_NTASKS": str(count), "SLURM_STEP_NUM_TASKS": str(count)}
        tasks.append(subprocess.Popen(words, env={**os.environ, **variables}))
    plan = json.loads(PLAN.read_text()) if PLAN.exists() else {}
    while any(task.poll() is None for task in tasks):
        time.sleep(0.02)
        file = plan.get("stop_at")
        if file and pathlib.Path(file).exists() and pathlib.Path(file).read_text() == str(plan["epoch"]):
            for task in tasks:
                task.send_signal(signal.SIGTERM)
            PLAN.unlink()
            plan = {}
    return max(task.returncode for task in tasks)


def scontrol():
    if sys.argv[2:4] == ["show", "hostnames"]:
        first, last = re.fullmatch(r"node\[(\d+)-(\d+)\]", sys.argv[4]).groups()
        print(*(f"node{number}" for number in range(int(first), int(last) + 1)), sep="\n")
        return 0
    assert sys.argv[2:] == ["requeue", os.environ["SLURM_JOB_ID"]], sys.argv
    (SLURM / "requeued").touch()
    return 0


if __name__ == "__main__":
    sys.exit({"sbatch": sbatch, "srun": srun, "scontrol": scontrol}[sys.argv[1]]())
