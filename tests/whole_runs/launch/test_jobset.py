"""The JobSets for Kubernetes, with local processes as pods."""

import re
import socket
import subprocess

import pytest
import yaml

from support import ROOT
from support.launching import write_program


def read_jobset(name):
    """Returns the document, its job, the pod template and the container."""
    (document,) = yaml.safe_load_all((ROOT / "launch" / name).read_text())
    (job,) = document["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return document, job, pod, container


def resolve_environment(container, index):
    """The environment variables of the pod with this index, resolved as Kubernetes does."""
    variables = {}
    for entry in container["env"]:
        if "value" in entry:
            assert isinstance(entry["value"], str)
            variables[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], entry["value"])
        else:
            path = entry["valueFrom"]["fieldRef"]["fieldPath"]
            assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
            variables[entry["name"]] = str(index)
    return variables


@pytest.mark.parametrize("name", ["jobset.yaml", "jobset_tpu.yaml"])
def test_a_jobset_is_consistent(name):
    document, job, pod, container = read_jobset(name)
    spec = job["template"]["spec"]
    assert (document["apiVersion"], document["kind"], job["replicas"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet", 1)
    environment = resolve_environment(container, 0)
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"] == int(environment["JAX_NUM_PROCESSES"])
    jobset_name = document["metadata"]["name"]
    host, _, port = environment["JAX_COORDINATOR_ADDRESS"].partition(":")
    assert host == f"{jobset_name}-{job['name']}-0-0.{jobset_name}"
    assert document["spec"]["network"]["enableDNSHostnames"] is True
    assert [entry["containerPort"] for entry in container["ports"]] == [int(port)]
    assert document["spec"]["failurePolicy"]["maxRestarts"] > 0 and spec["backoffLimit"] == 0
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] == 30
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    # The controller rejects any other rule name.
    valid_name = r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?"
    assert all(re.fullmatch(valid_name, rule["name"]) for rule in document["spec"]["failurePolicy"]["rules"])
    mounts, volumes = container.get("volumeMounts", []), {volume["name"] for volume in pod.get("volumes", [])}
    assert {mount["name"] for mount in mounts} == volumes
    (workdir,) = [word.partition("=")[2] for word in container["args"] if word.startswith("--workdir=")]
    assert workdir.startswith("gs://") or any(workdir.startswith(mount["mountPath"] + "/") for mount in mounts)


@pytest.mark.parametrize("name", ["jobset.yaml", "jobset_tpu.yaml"])
def test_the_hosts_of_a_jobset_form_one_run(sandbox, name):
    _, job, _, container = read_jobset(name)
    write_program(sandbox.bin / "python", (sandbox.worker_bin / "python3").read_text())
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    local = {"/shared/": f"{sandbox.tmp}/", "gs://BUCKET/": f"{sandbox.tmp}/"}
    words = container["args"]
    for folder, replacement in local.items():
        words = [word.replace(folder, replacement) for word in words]
    pods = []
    for index in range(job["template"]["spec"]["parallelism"]):
        environment = resolve_environment(container, index)
        environment["JAX_COORDINATOR_ADDRESS"] = environment["JAX_COORDINATOR_ADDRESS"].replace("61440", port)
        command = [*container["command"], *words]
        pods.append(subprocess.Popen(command, env=sandbox.environment | environment, cwd=sandbox.root))
    assert [pod.wait(timeout=60) for pod in pods] == [0] * len(pods)
    assert (sandbox.tmp / "runs" / "proposed" / "epoch").read_text() == "3"
    starts = sandbox.starts()
    assert all(start["argv"][0] == "mfl_jax.main" for start in starts) and len(starts) == len(pods)
