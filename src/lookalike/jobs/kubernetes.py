"""Kubernetes: a TrainJob of Kubeflow Trainer, or a plain Job where one machine runs a command."""

from __future__ import annotations

import re
from typing import Any

import yaml

from lookalike import storage
from lookalike.errors import ConfigError
from lookalike.jobs.kubernetes_cluster import CONTAINERS, MARK, KubernetesCluster, connect
from lookalike.jobs.request import JobRequest, check_places, start_script, without_none
from lookalike.jobs.resources import Mount, Resources
from lookalike.storage.byte_size import in_bytes

__all__ = ["KubernetesCluster", "connect", "render", "shown"]

# The variables that the trainer's torch plugin sets in the container.
_TORCHRUN = (
    '--nnodes="$PET_NNODES"', '--node-rank="$PET_NODE_RANK"',
    '--master-addr="$PET_MASTER_ADDR"', '--master-port="$PET_MASTER_PORT"',
    '--nproc-per-node="$PET_NPROC_PER_NODE"',
)  # fmt: skip


def render(job: JobRequest, resources: Resources) -> dict[str, Any]:
    """The object to create: a TrainJob for trainings and for several machines, else a Job.

    Raises:
        ConfigError: something is missing, or is not to be had there.
    """
    check_places(job, resources)
    is_training = job.command == "train" or resources.nodes > 1
    _check(resources, is_training)
    name = job.name if job.name[0].isalpha() else f"run-{job.name}"
    labels = {MARK: "lookalike", "app.kubernetes.io/component": job.command}
    if resources.kubernetes.queue is not None:
        labels["kueue.x-k8s.io/queue-name"] = resources.kubernetes.queue
        if resources.priority is not None:
            labels["kueue.x-k8s.io/priority-class"] = str(resources.priority)
    metadata = {"generateName": f"{name[:40].strip('-')}-", "labels": labels}
    return (_train_job if is_training else _job)(job, resources, metadata)


def _check(resources: Resources, is_training: bool) -> None:
    if resources.image is None:
        raise ConfigError("Kubernetes needs an image: --image, one that holds lookalike")
    if isinstance(resources.priority, int):
        raise ConfigError(
            f"priority={resources.priority}: on Kubernetes it is the name of a priority class"
        )
    if is_training and resources.priority is not None and resources.kubernetes.queue is None:
        raise ConfigError(
            f"priority={resources.priority}: a TrainJob has one only in a queue of Kueue; give "
            "kubernetes.queue"
        )
    if is_training and "retries" in resources.model_fields_set:
        raise ConfigError(
            "retries: those of a TrainJob are set by its runtime (backoffLimit of its job); leave "
            "it out"
        )
    for mount in resources.mounts:
        if storage.is_remote(mount.source) or mount.options is not None or mount.role is not None:
            raise ConfigError(
                f"mounts: {mount.source}: Kubernetes mounts CLAIM:/PATH, CLAIM/FOLDER:/PATH or a "
                "folder of the machine, /FOLDER:/PATH, without options and role"
            )


def _train_job(job: JobRequest, resources: Resources, metadata: dict[str, Any]) -> dict[str, Any]:
    workers = job.workers_of_machine(resources)
    torchrun = () if workers == resources.nodes == 1 else _TORCHRUN
    container = CONTAINERS["trainjob"]
    mounts, volumes = _mounts(resources)
    pod = {
        **_pod(resources),
        "volumes": volumes or None,
        "containers": [{"name": container, "volumeMounts": mounts}] if mounts else None,
    }
    job_of_runtime = {
        "name": container,
        "template": {"spec": {"template": {"spec": without_none(pod)}}},
    }
    trainer = {
        "image": resources.image,
        "command": _command(job, resources, torchrun),
        "env": _environment(resources) or None,
        "numNodes": resources.nodes,
        "numProcPerNode": workers,
        "resourcesPerNode": _requirements(resources),
    }
    spec = {
        "runtimeRef": {"name": resources.kubernetes.runtime},
        "activeDeadlineSeconds": resources.limit_seconds,
        "trainer": without_none(trainer),
        "runtimePatches": [
            {
                "manager": "lookalike",
                "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job_of_runtime]}}},
            }
        ],
    }
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": without_none(spec),
    }


def _job(job: JobRequest, resources: Resources, metadata: dict[str, Any]) -> dict[str, Any]:
    workers = job.workers_of_machine(resources)
    torchrun = ("--standalone", f"--nproc-per-node={workers}") if workers > 1 else ()
    mounts, volumes = _mounts(resources)
    container = {
        "name": CONTAINERS["job"],
        "image": resources.image,
        "command": _command(job, resources, torchrun),
        "env": _environment(resources) or None,
        "resources": _requirements(resources),
        "volumeMounts": mounts or None,
    }
    pod = {
        **_pod(resources),
        "restartPolicy": "Never",
        "priorityClassName": resources.priority if resources.kubernetes.queue is None else None,
        "volumes": volumes or None,
        "containers": [without_none(container)],
    }
    spec = {
        "backoffLimit": resources.retries,
        "activeDeadlineSeconds": resources.limit_seconds,
        "template": {"spec": without_none(pod)},
    }
    return {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": without_none(spec),
    }  # fmt: skip


def _command(job: JobRequest, resources: Resources, torchrun: tuple[str, ...]) -> list[str]:
    script = start_script(job, resources, torchrun)
    # Kubernetes takes $(NAME) for a variable, and $$ for $.
    return ["sh", "-c", re.sub(r"\$(?=[$(])", "$$", script)]


def _environment(resources: Resources) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "value": re.sub(r"\$(?=[$(])", "$$", value)}
        for name, value in resources.environment.items()
    ]
    for name, place in resources.kubernetes.secrets.items():
        secret, _, key = place.partition("/")
        found.append({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    return found


def _requirements(resources: Resources) -> dict[str, Any] | None:
    """CPUs are asked for and not limited: a limit would slow what is idle beside it."""
    memory = None if resources.memory is None else _mebibytes(resources.memory)
    cpus = None if resources.cpus is None else str(resources.cpus)
    gpus = str(resources.gpus) if resources.gpus else None
    found = {
        "requests": without_none({"cpu": cpus, "memory": memory}) or None,
        "limits": without_none({"memory": memory, resources.kubernetes.gpu_resource: gpus}) or None,
    }
    return without_none(found) or None


def _mebibytes(size: str) -> str:
    return f"{max(1, in_bytes(size) // 2**20)}Mi"


def _pod(resources: Resources) -> dict[str, Any]:
    options = resources.kubernetes
    nodes = without_none(
        {
            "node.kubernetes.io/instance-type": resources.machine,
            "nvidia.com/gpu.product": resources.gpu_type,
        }
    )
    return {
        "terminationGracePeriodSeconds": resources.grace_seconds,
        "serviceAccountName": options.service_account,
        "imagePullSecrets": None
        if options.pull_secret is None
        else [{"name": options.pull_secret}],
        "nodeSelector": nodes or None,
    }


def _mounts(resources: Resources) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Mounts of the container, and the volumes of the pod: one for each claim or folder."""
    mounts: list[dict[str, Any]] = []
    volumes: dict[str, dict[str, Any]] = {}
    for mount in resources.mounts:
        source, folder = _source(mount)
        name = f"mount-{list(volumes).index(source) if source in volumes else len(volumes)}"
        if source.startswith("/"):
            volumes[source] = {"name": name, "hostPath": {"path": source}}
        else:
            volumes[source] = {"name": name, "persistentVolumeClaim": {"claimName": source}}
        mounts.append(
            without_none(
                {
                    "name": name,
                    "mountPath": mount.path,
                    "subPath": folder or None,
                    "readOnly": mount.read_only or None,
                }
            )
        )
    found = list(volumes.values())
    if resources.shared_memory is not None:
        limit = _mebibytes(resources.shared_memory)
        found.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": limit}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    return mounts, found


def _source(mount: Mount) -> tuple[str, str]:
    """Claim or folder of the machine, and the folder in a claim."""
    if mount.source.startswith("/"):
        return mount.source, ""
    claim, _, folder = mount.source.partition("/")
    return claim, folder.strip("/")


class _BlockTextDumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, for people."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_BlockTextDumper.add_representer(str, _represent_text)


def shown(request: dict[str, Any]) -> str:
    """An object as YAML, as `kubectl create -f -` takes it."""
    return yaml.dump(
        request, Dumper=_BlockTextDumper, sort_keys=False, width=1000, allow_unicode=True
    )
