"""DLC, the vendor's job service: a CreateJob request, sent and followed by the vendor's SDK."""

from __future__ import annotations

import json
import logging
import os
import re
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from lookalike import storage
from lookalike.errors import ConfigError, CredentialsError, MissingExtraError
from lookalike.jobs.engine import JobState, JobStatus, ServiceAnswer, calling
from lookalike.jobs.request import JobRequest, check_places, start_script, without_none
from lookalike.jobs.resources import Mount, Resources
from lookalike.storage.byte_size import in_bytes

T = TypeVar("T")

_MARK = "lookalike"  # tag of our jobs; its value is that of one request
_LARGEST_BODY = 65_536

# In the container WORLD_SIZE is the number of machines and RANK that of this one.
_TORCHRUN = (
    '--nnodes="$WORLD_SIZE"', '--node-rank="$RANK"',
    '--master-addr="$MASTER_ADDR"', '--master-port="$MASTER_PORT"',
)  # fmt: skip

_STATES = {  # any other is of a job that runs
    "Creating": JobState.QUEUED, "Queuing": JobState.QUEUED, "Bidding": JobState.QUEUED,
    "Dequeued": JobState.QUEUED, "EnvPreparing": JobState.QUEUED, "Restarting": JobState.QUEUED,
    "SanityChecking": JobState.QUEUED, "Running": JobState.RUNNING, "Stopping": JobState.RUNNING,
    "Succeeded": JobState.SUCCEEDED, "Failed": JobState.FAILED, "Stopped": JobState.STOPPED,
}  # fmt: skip


def render(job: JobRequest, resources: Resources) -> dict[str, Any]:
    """The body of CreateJob.

    Raises:
        ConfigError: something that DLC requires is missing or too large; its SDK checks neither.
    """
    check_places(job, resources)
    _check(resources)
    workers = 1 if job.starts_workers else resources.workers or resources.gpus
    # The machine type says the GPUs; without any the request says the workers.
    count = str(workers) if workers else f'"${{NPROC_PER_NODE:-{job.workers}}}"'
    options = [] if resources.nodes == 1 else list(_TORCHRUN)
    options = options or ["--standalone"]
    if resources.nodes == 1 and workers == 1:
        options = []
    torchrun = [*options, f"--nproc-per-node={count}"] if options else []
    dlc = resources.dlc
    body: dict[str, Any] = {
        "DisplayName": job.name,
        "JobType": "PyTorchJob",
        "WorkspaceId": dlc.workspace,
        "JobSpecs": [without_none(_spec(resources))],
        "UserCommand": start_script(job, resources, torchrun),
        "Envs": dict(resources.environment) or None,
        "DataSources": [_data_source(mount) for mount in resources.mounts] or None,
        "Priority": resources.priority,
        "JobMaxRunningTimeMinutes": None
        if resources.limit_seconds is None
        else -(-resources.limit_seconds // 60),
        "UserVpc": without_none(
            {
                "VpcId": dlc.vpc,
                "SwitchId": dlc.switch,
                "SecurityGroupId": dlc.security_group,
            }
        )
        or None,
        "Settings": without_none(
            {
                "Tags": {_MARK: job.command},
                "EnableSanityCheck": dlc.sanity_check or None,
                "EnableErrorMonitoringInAIMaster": dlc.error_monitoring is not None or None,
                "ErrorMonitoringArgs": dlc.error_monitoring,
                "ElasticSpotJobMaxRestartTimes": resources.retries if dlc.spot_discount else None,
                "TerminationGracePeriodSeconds": resources.grace_seconds,
            }
        ),
    }
    body = without_none(body)
    size = len(json.dumps(body).encode())
    if size > _LARGEST_BODY:
        raise ConfigError(
            f"{job.name}: the request has {size:,} bytes, and DLC takes {_LARGEST_BODY:,}; shorten "
            "the configuration file"
        )
    return body


def _check(resources: Resources) -> None:
    dlc, priority = resources.dlc, resources.priority
    if resources.image is None:
        raise ConfigError("DLC needs an image: --image, one that holds lookalike")
    if (resources.machine is None) == (dlc.quota is None):
        raise ConfigError(
            "DLC needs either a machine type (--machine, an EcsSpec) or dlc.quota with gpus, cpus "
            "and memory; give one of both"
        )
    if dlc.quota is not None and (resources.cpus is None or resources.memory is None):
        raise ConfigError("dlc.quota needs cpus and memory of each machine (--cpus, --memory)")
    if priority is not None and (not isinstance(priority, int) or not 1 <= priority <= 9):
        raise ConfigError(f"priority={priority!r}: DLC takes 1 (lowest) to 9")
    if dlc.spot_discount is not None and dlc.quota is not None:
        raise ConfigError("dlc.spot_discount: spot machines have a machine type, not a quota")
    if (dlc.switch or dlc.security_group) and not dlc.vpc:
        raise ConfigError("dlc.switch and dlc.security_group need dlc.vpc")


def _spec(resources: Resources) -> dict[str, Any]:
    """The machines: all are of the type Worker, and the first becomes the master."""
    dlc = resources.dlc
    found: dict[str, Any] = {
        "Type": "Worker",
        "Image": resources.image,
        "PodCount": resources.nodes,
        "EcsSpec": resources.machine,
        "QuotaId": dlc.quota,
        "RestartPolicy": "OnFailure" if resources.retries else "Never",
    }
    if dlc.quota is not None:
        found["ResourceConfig"] = without_none(
            {
                "CPU": str(resources.cpus),
                "Memory": _gib(resources.memory),
                "SharedMemory": _gib(resources.shared_memory),
                "GPU": str(resources.gpus) if resources.gpus else None,
                "GPUType": resources.gpu_type,
            }
        )
    if dlc.spot_discount is not None:
        found["UseSpotInstance"] = True
        found["SpotSpec"] = {
            "SpotStrategy": "SpotWithPriceLimit",
            "SpotDiscountLimit": dlc.spot_discount,
        }
    return found


def _gib(size: str | None) -> str | None:
    return None if size is None else f"{max(1, in_bytes(size) // 2**30)}Gi"


def _data_source(mount: Mount) -> dict[str, Any]:
    place = "Uri" if storage.is_remote(mount.source) else "DataSourceId"
    return without_none(
        {
            place: mount.source,
            "MountPath": mount.path,
            "MountAccess": "RO" if mount.read_only else "RW",
            "Options": None if mount.options is None else json.dumps(mount.options),
            "RoleArn": mount.role,
        }
    )


def shown(request: dict[str, Any]) -> str:
    """A request as JSON."""
    return json.dumps(request, indent=2) + "\n"


class Dlc:
    """The service of a region.

    Args:
        client: of the vendor's SDK.
        models: module of its messages.
    """

    def __init__(
        self, client: Any, models: Any, workspace: str | None, first_pause: float = 1.0
    ) -> None:
        self._client = client
        self._models = models
        self._workspace = workspace
        self._pause = first_pause
        self._read: dict[str, int] = {}

    def _call(self, action: Callable[[], T], what: str, **more: Any) -> T:
        return calling(
            action,
            what,
            _answer_of,
            credentials="them (ALIBABA_CLOUD_ACCESS_KEY_ID, the vendor's file or the role)",
            first_pause=self._pause,
            **more,
        )

    def send(self, request: dict[str, Any]) -> str:
        """Create the job once: after an answer that leaves it open, look for it first."""
        token = uuid.uuid4().hex
        settings = {**request["Settings"], "Tags": {**request["Settings"]["Tags"], "token": token}}
        body = {**request, "Settings": settings}
        if self._workspace is not None:
            body.setdefault("WorkspaceId", self._workspace)
        if "WorkspaceId" not in body:
            raise ConfigError("DLC needs a workspace: dlc.workspace, or $PAI_WORKSPACE_ID")
        message = self._models.CreateJobRequest().from_map(body)

        def sent() -> str | None:
            found = self._list({"token": token})
            return str(found[0].job_id) if found else None

        return str(
            self._call(
                lambda: self._client.create_job(message).body.job_id,
                body["DisplayName"],
                after_doubt=sent,
            )
        )

    def _list(self, tags: dict[str, str] | None) -> list[Any]:
        message = self._models.ListJobsRequest(
            workspace_id=self._workspace, tags=tags, page_size=100, sort_by="GmtCreateTime",
            order="desc",
        )  # fmt: skip
        answer = self._call(lambda: self._client.list_jobs(message), "DLC")
        return list(answer.body.jobs or [])

    def _job(self, job: str) -> Any:
        message = self._models.GetJobRequest()
        return self._call(lambda: self._client.get_job(job, message), job).body

    def status(self, job: str) -> JobStatus:
        return _status(self._job(job))

    def new_log(self, job: str) -> list[str]:
        """Lines of the first machine's log since the last call."""
        pods = self._job(job).pods or []
        if not pods:
            return []
        message = self._models.GetPodLogsRequest(max_lines=100_000)
        answer = self._call(
            lambda: self._client.get_pod_logs(job, pods[0].pod_id, message), f"{job}: log"
        )
        lines = list(answer.body.logs or [])
        before, self._read[job] = self._read.get(job, 0), len(lines)
        return lines[before if before <= len(lines) else 0 :]

    def stop(self, job: str) -> None:
        """Stop a job: SIGTERM, and the end after the grace period."""
        self._call(lambda: self._client.stop_job(job), job)

    def jobs(self) -> list[JobStatus]:
        """The newest jobs of the workspace that lookalike sent, at most 100 looked at."""
        found = self._list(None)
        tagged = [each for each in found if _MARK in (getattr(each.settings, "tags", None) or {})]
        return [_status(each) for each in tagged]


def _status(found: Any) -> JobStatus:
    reason = ": ".join(filter(None, (found.reason_code, found.reason_message)))
    return JobStatus(
        found.job_id,
        found.display_name or "",
        _STATES.get(found.status, JobState.RUNNING),
        storage.without_secrets(reason),
        found.gmt_create_time or "",
    )


def _answer_of(error: Exception) -> ServiceAnswer | None:
    """The service's answer in an error of the SDK."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"RequestException", "UnretryableException", "RetryError"} or isinstance(
        error, OSError
    ):
        return ServiceAnswer(0, "", "no connection")
    if "TeaException" not in kinds:
        return None
    status = getattr(error, "status_code", None) or getattr(error, "statusCode", None) or 0
    words = str(getattr(error, "message", "") or "")
    words = re.sub(r"^code: \d+, ", "", re.sub(r",? ?request id:.*$", "", words))
    code = str(getattr(error, "code", "") or "")
    return ServiceAnswer(int(status), code, storage.without_secrets(words))


def _keys() -> dict[str, str]:
    """The keys of the environment, first in the vendor's chain, whose SDK reads them at import."""
    names = ("access_key_id", "access_key_secret", "security_token")
    found = {name: os.environ.get(f"ALIBABA_CLOUD_{name.upper()}", "") for name in names}
    if not (found["access_key_id"] and found["access_key_secret"]):
        return {}
    given = {name: value for name, value in found.items() if value}
    return {"type": "sts" if "security_token" in given else "access_key", **given}


def connect(resources: Resources) -> Dlc:
    """The service of the region, by the vendor's chain of credentials.

    Raises:
        MissingExtraError: the SDK is not installed.
        CredentialsError: there are no credentials.
    """
    region = resources.dlc.region or os.environ.get("ALIBABA_CLOUD_REGION_ID")
    endpoint = os.environ.get("PAI_DLC_ENDPOINT")
    if region is None and endpoint is None:
        raise ConfigError("DLC needs a region: dlc.region, or $ALIBABA_CLOUD_REGION_ID")
    try:
        from alibabacloud_credentials.client import Client as Credentials
        from alibabacloud_credentials.models import Config as CredentialConfig
        from alibabacloud_pai_dlc20201203 import models
        from alibabacloud_pai_dlc20201203.client import Client
        from alibabacloud_tea_openapi.utils_models import Config as ClientConfig
    except ImportError:
        raise MissingExtraError("alibabacloud-pai-dlc20201203", "dlc") from None
    logging.getLogger("credentials").setLevel(logging.CRITICAL)  # the SDK's tracebacks
    try:
        credentials = Credentials(CredentialConfig(**keys) if (keys := _keys()) else None)
        credentials.get_credential()
    except Exception as error:  # the SDK raises its own kind for each source
        raise CredentialsError(
            f"DLC: no credentials ({type(error).__name__}); set ALIBABA_CLOUD_ACCESS_KEY_ID and "
            "ALIBABA_CLOUD_ACCESS_KEY_SECRET, or the vendor's file"
        ) from None
    plain = endpoint is not None and endpoint.startswith(("127.0.0.1:", "localhost:"))
    config = ClientConfig(
        credential=credentials, region_id=region, endpoint=endpoint,
        protocol="http" if plain else "https", connect_timeout=10_000, read_timeout=60_000,
    )  # fmt: skip
    workspace = resources.dlc.workspace or os.environ.get("PAI_WORKSPACE_ID")
    return Dlc(Client(config), models, workspace)
