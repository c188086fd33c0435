"""Resources of a job: machines, image, limits, mounts, and what each engine needs besides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationError, field_validator, model_validator

from lookalike import storage
from lookalike.config.duration import seconds_of
from lookalike.config.section_base import Section, setting
from lookalike.config.yaml_lines import read_mapping
from lookalike.errors import ConfigError
from lookalike.storage.byte_size import in_bytes
from lookalike.storage.local_files import read_text
from lookalike.storage.schema_faults import faults_of

_SECRET_NAME = re.compile(
    r"secret|token|passw|access_?key|api_?key|credential|private_?key", re.IGNORECASE
)
_MAY_BE_SECRET = ("environment", "kubernetes.secrets")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?/[-._A-Za-z0-9]+")
_NO_FIELDS = "holds no resources; write e.g. 'gpus: 8'"
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def _one_word(value: str) -> str:
    """A text without white space, as an option of sbatch or a name in a request."""
    if not value.isprintable() or value.split() != [value]:
        raise ValueError("is not one word; leave it out, or write it without white space")
    return value


Word = Annotated[str, AfterValidator(_one_word)]


class Mount(Section):
    """A folder of a storage, mounted on every machine of the job."""

    source: str
    """DLC: `oss://BUCKET/FOLDER/`, or the id of a data set. Kubernetes: CLAIM or CLAIM/FOLDER of a
    volume, or a path of the machine. Slurm with an image: a path of the machine."""
    path: str
    """Mount point in the container."""
    read_only: bool = False
    """Mount it read-only."""
    options: dict[str, Any] | None = None
    """Properties of the mount, on DLC."""
    role: str | None = None
    """Role by which DLC reads it, an ARN."""

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, value: Any) -> Any:
        """`SOURCE:/PATH`, `SOURCE:/PATH:ro` or `SOURCE:/PATH:rw`."""
        if not isinstance(value, str):
            return value
        text, _, access = value.rpartition(":")
        text = text if access in ("ro", "rw") else value
        source, _, path = text.rpartition(":")
        if not source or not path.startswith("/") or path.startswith("//"):
            raise ValueError("is no mount; write SOURCE:/PATH or SOURCE:/PATH:ro")
        return {"source": source, "path": path, "read_only": access == "ro"}

    @field_validator("source", "path")
    @classmethod
    def _is_plain(cls, value: str) -> str:
        if storage.unsigned(value) != value:
            raise ValueError("holds a signature or a password; mount it by a role instead")
        return value


class DlcOptions(Section):
    """Settings of DLC alone."""

    region: Word | None = None
    """Region of the service, as cn-shanghai; else $ALIBABA_CLOUD_REGION_ID."""
    workspace: Word | None = None
    """Id of the workspace; else $PAI_WORKSPACE_ID."""
    quota: Word | None = None
    """Id of a resource quota, in place of a machine type."""
    spot_discount: float | None = setting(None, gt=0, le=1)
    """Use spot machines up to this part of the full price, as 0.5."""
    sanity_check: bool = False
    """Let DLC check the machines before the job begins."""
    error_monitoring: str | None = None
    """Arguments of DLC's fault monitoring (AIMaster), which turn it on."""
    vpc: Word | None = None
    """Id of a VPC."""
    switch: Word | None = None
    """Id of a vSwitch."""
    security_group: Word | None = None
    """Id of a security group."""


class KubernetesOptions(Section):
    """Settings of Kubernetes alone."""

    context: Word | None = None
    """Context of the kubeconfig; else its current one."""
    namespace: Word | None = None
    """Namespace; else that of the context."""
    runtime: Word = "torch-distributed"
    """Runtime of Kubeflow Trainer for a TrainJob."""
    service_account: Word | None = None
    """Service account of the pods."""
    pull_secret: Word | None = None
    """Secret by which the image is pulled."""
    secrets: dict[str, str] = setting({})
    """Variables from secrets of the namespace, as `OSS_ACCESS_KEY_SECRET: SECRET/KEY`."""
    queue: Word | None = None
    """Queue of Kueue."""
    gpu_resource: Word = "nvidia.com/gpu"
    """Name of the GPUs among the resources of a machine."""

    @field_validator("secrets")
    @classmethod
    def _are_references(cls, value: dict[str, str]) -> dict[str, str]:
        for name, place in value.items():
            if not _VARIABLE.fullmatch(name) or not _REFERENCE.fullmatch(place):
                # pydantic's message would quote what may be the secret itself.
                raise _SecretError(
                    f"kubernetes.secrets.{name}: write NAME: SECRET/KEY, the name of a secret of "
                    "the namespace and a key in it"
                )
        return value


class SlurmOptions(Section):
    """Settings of Slurm alone."""

    partition: Word | None = None
    """Partition, or several with commas between."""
    account: Word | None = None
    """Account that pays."""
    setup: tuple[str, ...] = ()
    """Lines of shell before the start, as `source .venv/bin/activate`."""
    options: tuple[str, ...] = ()
    """More options of sbatch, as `--exclusive`."""

    @field_validator("options")
    @classmethod
    def _are_options(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for option in value:
            if not option.startswith("--") or "\n" in option:
                raise ValueError(f"has {option!r}; write long options, as --exclusive")
        return value


class Resources(Section):
    """Resources of a job, the same for every engine as far as it has them."""

    name: str | None = None
    """Name of the job; by default the last part of the output."""
    nodes: int = setting(1, ge=1, le=4096)
    """Machines."""
    workers: int | None = setting(None, ge=1, le=1024)
    """Workers of each machine; by default one for each GPU, or run.workers."""
    gpus: int = setting(0, ge=0, le=64)
    """GPUs of each machine; 0 where the machine type says it."""
    gpu_type: Word | None = None
    """Type of the GPU, by the engine's name for it."""
    machine: Word | None = None
    """Machine type: EcsSpec on DLC, instance type on Kubernetes, constraint on Slurm."""
    cpus: int | None = setting(None, ge=1)
    """Cores of each machine."""
    memory: str | None = None
    """Memory of each machine, as 64GiB."""
    shared_memory: str | None = None
    """Of it, size of /dev/shm, as 16GiB."""
    image: Word | None = None
    """Container image that holds lookalike; on Slurm one that srun's Pyxis plugin runs."""
    python: str = "python"
    """Python of the image or the machines."""
    time_limit: str | None = None
    """Longest time, as 12h; training saves a checkpoint before, and Slurm queues it again."""
    grace: str = "5m"
    """Time between the request to stop and the end: that of a checkpoint."""
    priority: int | Word | None = None
    """1 (lowest) to 9 on DLC; a priority class on Kubernetes; a QOS on Slurm."""
    mounts: tuple[Mount, ...] = ()
    """Mounts, as `SOURCE:/PATH` or `SOURCE:/PATH:ro`."""
    environment: dict[str, str] = setting({})
    """Variables of the environment; no secrets."""
    folder: str | None = None
    """Folder in the job for a workflow's file, states and results; its relative paths are from
    there. Without it, that of the file, if the machines share it."""
    retries: int = setting(1, ge=0, le=100)
    """Starts after a failure; each resumes."""
    dlc: DlcOptions = DlcOptions()
    kubernetes: KubernetesOptions = KubernetesOptions()
    slurm: SlurmOptions = SlurmOptions()

    @field_validator("time_limit", "grace", mode="before")
    @classmethod
    def _is_time(cls, value: Any) -> Any:
        if value is not None and seconds_of(str(value)) < 1:
            raise ValueError("is shorter than a second")
        return value

    @field_validator("memory", "shared_memory")
    @classmethod
    def _is_size(cls, value: str | None) -> str | None:
        if value is not None:
            in_bytes(value)
        return value

    @field_validator("name")
    @classmethod
    def _is_name(cls, value: str | None) -> str | None:
        if value is not None and (not _LABEL.fullmatch(value) or len(value) > 50):
            raise ValueError("is no name of a job: a-z, 0-9 and -, at most 50")
        return value

    @field_validator("folder")
    @classmethod
    def _is_absolute(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("/"):
            raise ValueError("is no absolute path of the job's machine")
        return value

    @field_validator("environment")
    @classmethod
    def _has_no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"names {name!r}, which no variable can have")
            if _SECRET_NAME.search(name) or storage.unsigned(text) != text:
                # pydantic's message would quote the value.
                raise _SecretError(
                    f"environment.{name} looks like a secret, and everyone who can list jobs could "
                    "read it there; use a role (mounts.role), on "
                    "Kubernetes kubernetes.secrets, on Slurm the environment that sbatch passes on"
                )
        return value

    @field_validator("mounts")
    @classmethod
    def _are_apart(cls, value: tuple[Mount, ...]) -> tuple[Mount, ...]:
        paths = [mount.path.rstrip("/") for mount in value]
        for path in paths:
            if paths.count(path) > 1:
                raise ValueError(f"has {path} twice; each mount needs a path of its own")
        return value

    @model_validator(mode="after")
    def _limit_is_longer(self) -> Resources:
        if (limit := self.limit_seconds) is not None and limit <= self.grace_seconds:
            raise ValueError(f"time_limit={self.time_limit} must be longer than grace={self.grace}")
        return self

    @property
    def limit_seconds(self) -> int | None:
        return None if self.time_limit is None else round(seconds_of(self.time_limit))

    @property
    def grace_seconds(self) -> int:
        """Seconds between the request to stop and the end."""
        return round(seconds_of(self.grace))


class _SecretError(Exception):
    """A secret among the resources: no ValueError, so that no message quotes its value."""


def read_resources(file: str | None, changes: dict[str, Any]) -> Resources:
    """The resources of a YAML file, with these changes; None and empty ones do not count.

    Raises:
        ConfigError: the file cannot be read, or a value is wrong.
    """
    tree: dict[str, Any] = {}
    lines: dict[str, int] = {}
    if file is not None:
        tree, lines = read_mapping(read_text(file), file, otherwise=_NO_FIELDS)
    given = {key: value for key, value in changes.items() if value not in (None, (), {}, [])}
    if "environment" in given and isinstance(tree.get("environment"), dict):
        given["environment"] = {**tree["environment"], **given["environment"]}
    try:
        return Resources.model_validate({**tree, **given})
    except _SecretError as error:
        raise ConfigError(str(error)) from None
    except ValidationError as error:
        raise ConfigError(_explain(error, file, lines, given)) from None


def _explain(
    error: ValidationError, file: str | None, lines: Mapping[str, int], given: Mapping[str, Any]
) -> str:
    """A line for each key that is wrong."""
    found = []
    for key, what in faults_of(error, {"extra_forbidden": _unknown}, _MAY_BE_SECRET):
        path = key.split(".")
        known = key and path[0] not in given
        number = lines.get(".".join(path[:2])) or lines.get(path[0]) if known else None
        found.append(f"{file}:{number}: {what}" if number else what)
    return "\n".join(found)


def _unknown(key: str) -> str:
    choices = "see docs/submit.md" if "." in key else ", ".join(Resources.model_fields)
    return f"is not a key of the resources ({choices})"
