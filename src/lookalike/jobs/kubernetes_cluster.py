"""A cluster of Kubernetes: jobs are created, followed and deleted by its client for Python."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lookalike import storage
from lookalike.errors import CredentialsError, MissingExtraError, one_line
from lookalike.jobs.engine import JobError, JobState, JobStatus, ServiceAnswer, calling
from lookalike.jobs.resources import Resources

T = TypeVar("T")

MARK = "app.kubernetes.io/managed-by"
"""Label of our jobs; its value is lookalike."""

CONTAINERS = {"trainjob": "node", "job": "lookalike"}
"""The container that runs the command; in a TrainJob it has the name that the runtime gave it."""

_APIS = {
    "trainjob": ("trainer.kubeflow.org", "v1alpha1", "trainjobs"),
    "job": ("batch", "v1", "jobs"),
}
_PODS_OF = {"trainjob": "jobset.sigs.k8s.io/jobset-name", "job": "batch.kubernetes.io/job-name"}
_INDEX = "batch.kubernetes.io/job-completion-index"
_TIMEOUT = (10, 60)  # seconds to connect, and to answer
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class KubernetesCluster:
    """The jobs of a namespace; ids are KIND/NAME, as kubectl writes them.

    Args:
        objects: client of objects of any kind.
        core: client of pods.
    """

    def __init__(self, objects: Any, core: Any, namespace: str) -> None:
        self._objects, self._core, self.namespace = objects, core, namespace
        self._read: dict[str, int] = {}

    def _call(self, action: Callable[[], T], what: str) -> T:
        return calling(
            action, what, _answer_of, credentials="those of the kubeconfig or of the pod"
        )

    def _object(self, call: str, kind: str, *words: Any, **more: Any) -> Any:
        group, version, plural = _APIS[kind]
        method = getattr(self._objects, f"{call}_namespaced_custom_object")
        return method(
            group, version, self.namespace, plural, *words, _request_timeout=_TIMEOUT, **more
        )

    def send(self, request: dict[str, Any]) -> str:
        """Create a job once, by a name of its own: after an open answer it is there already."""
        kind = request["kind"].lower()
        metadata = dict(request["metadata"])
        metadata["name"] = name = f"{metadata.pop('generateName')}{uuid.uuid4().hex[:6]}"
        body = {**request, "metadata": metadata}

        def created() -> str:
            try:
                # Strict: a field that the cluster does not have is refused, not dropped.
                self._object("create", kind, body, field_validation="Strict")
            except Exception as error:
                answer = _answer_of(error)
                if answer is None or answer.status not in (404, 409):
                    raise
                if answer.status == 404 and answer.code != "NotFound":
                    raise JobError(
                        f"{name}: the cluster has no {request['kind']}s; install Kubeflow Trainer "
                        "2.3"
                    ) from None
                if answer.status == 404:
                    raise
            return f"{kind}/{name}"

        return self._call(created, name)

    def status(self, job: str) -> JobStatus:
        """The state of a job, with the reason that its pods give."""
        kind, name = _parts(job)
        found = _status(kind, self._call(lambda: self._object("get", kind, name), job))
        if found.state in (JobState.QUEUED, JobState.FAILED):
            reasons = [found.reason, *(_pod_reason(pod) for pod in self._pods(job))]
            reason = ", ".join(dict.fromkeys(filter(None, reasons)))
            found = JobStatus(found.id, found.name, found.state, reason, found.created)
        return found

    def _pods(self, job: str) -> list[Any]:
        """The pods of a job, the newest first."""
        kind, name = _parts(job)
        found = self._call(
            lambda: self._core.list_namespaced_pod(
                self.namespace,
                label_selector=f"{_PODS_OF[kind]}={name}",
                _request_timeout=_TIMEOUT,
            ),
            f"{job}: pods",
        )
        return sorted(
            found.items or [], key=lambda pod: pod.metadata.creation_timestamp, reverse=True
        )

    def new_log(self, job: str) -> list[str]:
        """Lines of the first machine's log since the last call."""
        container = CONTAINERS[_parts(job)[0]]
        for pod in self._pods(job):
            labels = pod.metadata.labels or {}
            started = [
                status for status in pod.status.container_statuses or []
                if status.name == container and (status.state.running or status.state.terminated)
            ]  # fmt: skip
            if labels.get(_INDEX, "0") == "0" and started:
                # A container that was started again has a new log.
                key = f"{pod.metadata.name} {started[0].restart_count}"
                return self._new_lines(pod.metadata.name, container, key, job)
        return []

    def _new_lines(self, pod: str, container: str, key: str, job: str) -> list[str]:
        answer = self._call(
            lambda: self._core.read_namespaced_pod_log(
                pod, self.namespace, container=container, _preload_content=False,
                _request_timeout=_TIMEOUT,
            ),
            f"{job}: log",
        )  # fmt: skip
        text = answer.data.decode("utf-8", "replace")
        lines: list[str] = text[: text.rfind("\n") + 1].splitlines()
        before, self._read[key] = self._read.get(key, 0), len(lines)
        return lines[before if before <= len(lines) else 0 :]

    def stop(self, job: str) -> None:
        """Delete a job: its pods get SIGTERM, and end after the grace period."""
        kind, name = _parts(job)
        self._call(lambda: self._object("delete", kind, name, propagation_policy="Background"), job)

    def jobs(self) -> list[JobStatus]:
        found = []
        for kind in _APIS:
            answer = self._call(lambda kind=kind: self._listed(kind), "Kubernetes")  # type: ignore[misc]
            found += [_status(kind, each) for each in answer["items"]]
        return sorted(found, key=lambda each: each.created, reverse=True)

    def _listed(self, kind: str) -> Any:
        try:
            return self._object("list", kind, label_selector=f"{MARK}=lookalike")
        except Exception as error:
            answer = _answer_of(error)
            if answer is not None and answer.status == 404:  # a cluster without TrainJobs
                return {"items": []}
            raise


def _parts(job: str) -> tuple[str, str]:
    kind, _, name = job.partition("/")
    if kind not in _APIS or not name:
        raise JobError(f"{job}: no id of a job of Kubernetes; write trainjob/NAME or job/NAME")
    return kind, name


def _status(kind: str, found: dict[str, Any]) -> JobStatus:
    metadata, status = found["metadata"], found.get("status") or {}
    holds = {
        each["type"]: each for each in status.get("conditions") or [] if each["status"] == "True"
    }
    counts = status.get("jobsStatus") or [status]
    started = any(each.get("ready") or each.get("succeeded") for each in counts)
    state = JobState.RUNNING if started else JobState.QUEUED
    for word, meant in (
        ("Suspended", JobState.QUEUED), ("Complete", JobState.SUCCEEDED),
        ("Failed", JobState.FAILED),
    ):  # fmt: skip
        state = meant if word in holds else state
    why = holds.get("Failed") or holds.get("Suspended") or {}
    reason = ": ".join(filter(None, (why.get("reason"), why.get("message"))))
    return JobStatus(
        f"{kind}/{metadata['name']}",
        metadata["name"],
        state,
        "" if state is JobState.SUCCEEDED else _line(reason),
        metadata.get("creationTimestamp", ""),
    )


def _pod_reason(pod: Any) -> str:
    """Reason that a pod waits or has failed; empty for others."""
    for container in pod.status.container_statuses or []:
        waiting, ended = container.state.waiting, container.state.terminated
        if waiting is not None and waiting.reason not in ("ContainerCreating", "PodInitializing"):
            return _line(": ".join(filter(None, (waiting.reason, waiting.message))))
        if ended is not None and ended.exit_code:
            code = f"exit code {ended.exit_code}"
            return code if ended.reason in (None, "Error") else f"{ended.reason}, {code}"
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return _line(": ".join(filter(None, (condition.reason, condition.message))))
    return ""


def _line(text: str) -> str:
    return storage.without_secrets(one_line(Exception(text), 300)) if text else ""


def _answer_of(error: Exception) -> ServiceAnswer | None:
    """The answer of the API server in an error of its client."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "ApiException" not in kinds:
        # HTTPError is that of urllib3.
        lost = "HTTPError" in kinds or isinstance(error, OSError)
        return ServiceAnswer(0, "", "no connection") if lost else None
    try:
        body = json.loads(getattr(error, "body", None) or "")
    except ValueError:
        body = {}
    body = body if isinstance(body, dict) else {}
    words = str(body.get("message") or getattr(error, "reason", None) or "")
    status = getattr(error, "status", None) or 0
    return ServiceAnswer(int(status), str(body.get("reason") or ""), storage.without_secrets(words))


def connect(resources: Resources) -> KubernetesCluster:
    """The cluster of the kubeconfig, or the one that this process runs in.

    Raises:
        MissingExtraError: the client is not installed.
        CredentialsError: there is neither.
    """
    try:
        from kubernetes import client, config
        from urllib3 import Retry
    except ImportError:
        raise MissingExtraError("kubernetes", "kubernetes") from None
    options = resources.kubernetes
    settings = client.Configuration()
    namespace = "default"
    try:
        try:
            contexts, active = config.list_kube_config_contexts()
            config.load_kube_config(context=options.context, client_configuration=settings)
            chosen = [each for each in contexts if each["name"] == options.context] or [active]
            namespace = chosen[0]["context"].get("namespace") or namespace
        except config.ConfigException:
            if options.context is not None or not POD_NAMESPACE.exists():
                raise
            config.load_incluster_config(client_configuration=settings)
            namespace = POD_NAMESPACE.read_text("utf-8").strip()
    except (config.ConfigException, yaml.YAMLError, OSError) as error:
        raise CredentialsError(
            f"Kubernetes: no cluster ({one_line(error, 200)}); set KUBECONFIG, choose "
            "kubernetes.context, or run in a pod"
        ) from None
    settings.retries = Retry(0, redirect=5)  # ours say what happens
    api = client.ApiClient(settings)
    return KubernetesCluster(
        client.CustomObjectsApi(api), client.CoreV1Api(api), options.namespace or namespace
    )
