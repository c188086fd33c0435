"""Kubernetes: golden objects, read by the projects' models, and a server that plays the API."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml
from job_service import JobService, serving
from typer.testing import CliRunner

from lookalike.cli import app
from lookalike.cli.submitted_words import submit
from lookalike.errors import ConfigError, CredentialsError, LookalikeError, UnavailableError
from lookalike.jobs.engine import JobError, JobState
from lookalike.jobs.kubernetes_cluster import connect
from lookalike.jobs.request import COMMANDS, NO_PLACES
from lookalike.jobs.resources import Resources
from lookalike.jobs.submit import follow_job, job_status, list_jobs, stop_job

pytest.importorskip("kubernetes")

GOLDEN = Path(__file__).parent / "golden"
CONFIG = """# $(HOME) stays as it is, and so does $$.
data: {train: oss://shop/train.txt, val: /data/val.txt}
run: {output: oss://shop/runs/shoes}
"""
EMBED = ("embed", "oss://shop/runs/shoes", "oss://shop/photos.txt", "-o", "oss://shop/v.parquet")
STANDALONE: dict[str, Any] = {
    "image": "registry.example/lookalike:0.1", "mounts": ["shop:/data:ro"], "time_limit": "12h",
    "gpus": 1, "kubernetes": {"secrets": {"OSS_ACCESS_KEY_SECRET": "shop/key"}},
}  # fmt: skip
DISTRIBUTED: dict[str, Any] = {
    "image": "registry.example/lookalike:0.1", "nodes": 4, "gpus": 8,
    "gpu_type": "NVIDIA-H100-80GB-HBM3", "cpus": 64, "memory": "512GiB", "shared_memory": "64GiB",
    "mounts": ["shop/lists:/data:ro", "shop/runs:/runs", "/scratch:/cache"], "priority": "high",
    "environment": {"NCCL_DEBUG": "WARN"},
    "kubernetes": {"queue": "vision", "service_account": "reader", "pull_secret": "registry"},
}  # fmt: skip
JOB: dict[str, Any] = {
    "image": "registry.example/lookalike:0.1", "gpus": 2, "machine": "g.large", "retries": 2,
    "priority": "low",
}  # fmt: skip
SECRET = "sEcReT"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("lookalike.jobs.engine.time.sleep", lambda seconds: None)
    (tmp_path / "shoes.yaml").write_text(CONFIG)
    return str(tmp_path / "shoes.yaml")


CASES = {
    "standalone": (["CONFIG"], STANDALONE),
    "distributed": (["CONFIG"], DISTRIBUTED),
    "embed": (EMBED, JOB),
}


def expanded(text: str) -> str:
    """Word of a command that names no variable, as Kubernetes reads it."""
    found, rest = "", text
    while "$" in rest:
        before, _, rest = rest.partition("$")
        found += before
        if rest.startswith("$"):
            found, rest = f"{found}$", rest[1:]
        elif rest.startswith("(") and ")" in rest:
            raise AssertionError(f"$({rest[1:20]} is a variable")
        else:
            found += "$"
    return found + rest


@pytest.mark.parametrize("case", CASES)
def test_object(config: str, case: str) -> None:
    words, resources = CASES[case]
    words = [config if word == "CONFIG" else word for word in words]
    text = submit(*words, on="kubernetes", dry_run=True, **resources)
    assert text == (GOLDEN / f"kubernetes-{case}.yaml").read_text()
    body = yaml.safe_load(text)
    if case == "embed":
        from kubernetes import client

        api = client.ApiClient()
        found = api.deserialize(SimpleNamespace(data=json.dumps(body)), "V1Job")
        assert api.sanitize_for_serialization(found) == body
        [container] = body["spec"]["template"]["spec"]["containers"]
        assert "--standalone --nproc-per-node=2 -m lookalike embed" in container["command"][2]
        return
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

    assert TrainerV1alpha1TrainJob.from_dict(body).to_dict() == body
    assert CONFIG in expanded(body["spec"]["trainer"]["command"][2])


def test_start_of_each_machine(config: str, tmp_path: Path) -> None:
    """The command, with a program in place of Python that tells its arguments."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    program.chmod(0o755)
    text = submit(config, on="kubernetes", dry_run=True, python=str(program), **DISTRIBUTED)
    command = [expanded(word) for word in yaml.safe_load(text)["spec"]["trainer"]["command"]]
    variables = {"PET_NNODES": "4", "PET_NODE_RANK": "3", "PET_NPROC_PER_NODE": "8",
                 "PET_MASTER_ADDR": "m", "PET_MASTER_PORT": "29500", "PATH": os.environ["PATH"],
                 "TMPDIR": str(tmp_path)}  # fmt: skip
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    *words, file, last = done.stdout.splitlines()
    assert words == [
        "-m", "torch.distributed.run", "--nnodes=4", "--node-rank=3", "--master-addr=m",
        "--master-port=29500", "--nproc-per-node=8", "-m", "lookalike", "train",
    ]  # fmt: skip
    assert Path(file).read_text() == CONFIG
    assert last == "--resume"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "needs an image"),
        ({"mounts": []}, r"data.val=/data/val.txt: is in no mount of the container"),
        ({"mounts": ["oss://shop/data/:/data"]}, "Kubernetes mounts CLAIM:/PATH"),
        ({"priority": 5}, "the name of a priority class"),
        ({"priority": "high"}, r"only in a queue of Kueue; give kubernetes\.queue"),
        ({"retries": 3}, "set by its runtime"),
        ({"kubernetes": {"secrets": {"KEY": SECRET}}}, "write NAME: SECRET/KEY"),
    ],
)
def test_what_cannot_be_is_refused(config: str, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        submit(config, on="kubernetes", dry_run=True, **{**STANDALONE, **changes})
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ("model.pretrained=weights.pth", "model.pretrained=weights.pth"),
        ("model.backbone=local-dir:nets/vit", "model.backbone=nets/vit"),
        ("train.recipe=recipe.yaml", "train.recipe=recipe.yaml"),
        ("train.start_from=runs/old", "train.start_from=runs/old"),
        ("data.classes=names.txt", "data.classes=names.txt"),
        ("data.image_root=photos", "data.image_root=photos"),
        ("data.weights=weights.csv", "data.weights=weights.csv"),
        ("data.train=[/data/a.txt, b.txt]", "data.train=b.txt"),
        ("data.train=/data/../etc/a.txt", "data.train=/data/../etc/a.txt"),
    ],
)
def test_place_that_a_container_lacks_is_refused(config: str, setting: str, place: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{place}: is in no mount of the container")):
        submit(config, setting, on="kubernetes", dry_run=True, **STANDALONE)
    for fine in ("data.weights=weight", "data.hierarchy=genus", "data.classes=[a, b]",
                 "data.classes=cat,dog"):  # fmt: skip
        submit(config, fine, on="kubernetes", dry_run=True, **STANDALONE)


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (("embed", "shoes", "oss://b/p.txt", "-o", "oss://b/x.npy"), "argument=shoes"),
        (("embed", "oss://b/r", "p.txt", "-o", "oss://b/x.npy"), "argument=p.txt"),
        (("embed", "oss://b/r", "oss://b/p", "--restart", "-o", "x.npy"), "-o=x.npy"),
        (("evaluate", "oss://b/r", "--full", "--data=test.txt"), "--data=test.txt"),
        (("train", "--train", "a.txt", "--output", "oss://b/r"), "--train=a.txt"),
        (("train", "data.train=a.txt", "--output", "oss://b/r"), "data.train=a.txt"),
    ],
)
def test_argument_that_a_container_lacks_is_refused(words: tuple[str, ...], place: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{place}: is in no mount of the container")):
        submit(*words, on="kubernetes", dry_run=True, image="i")


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (("CONFIG", "run.output=/data/runs/x"), "run.output=/data/runs/x"),
        (("embed", "oss://b/r", "/data/p", "-o", "/data/x.npy"), "-o=/data/x.npy"),
        (("evaluate", "oss://b/r", "--data", "/data/t", "--output", "/data"), "--output=/data"),
    ],
)
def test_output_in_a_read_only_mount_is_refused(config: str, words: tuple, place: str) -> None:
    words = tuple(config if word == "CONFIG" else word for word in words)
    resources = {"image": "i", "mounts": ["shop:/data:ro"]}
    message = f"{place}: the mount /data is read-only; mount it for writing, shop:/data"
    with pytest.raises(ConfigError, match=re.escape(message)):
        submit(*words, on="kubernetes", dry_run=True, **resources)
    mounts = ["shop:/data:ro", "runs:/data/runs"]
    submit(config, "run.output=/data/runs/x", on="kubernetes", dry_run=True, image="i",
           mounts=mounts)  # fmt: skip


def test_values_that_are_no_places() -> None:
    """All options of the commands that take a value are known, and which of them are places."""
    program: Any = typer.main.get_command(app)
    options = {
        name
        for command in COMMANDS
        for each in program.commands[command].params
        if each.param_type_name == "option" and not each.is_flag
        for name in each.opts
    }
    places = {"-o", "--output", "--train", "--val", "--data", "--query", "--gallery", "--cache",
              "--image-root", "--query-image-root", "--embeddings", "--labels", "--per-class",
              "--per-query"}  # fmt: skip
    assert options - NO_PLACES == places
    assert options >= NO_PLACES
    submit(*EMBED, "--device", "cpu", on="kubernetes", dry_run=True, image="i")
    submit("evaluate", "oss://b/r", "--data", "oss://b/t", "--label-separator", "/",
           on="kubernetes", dry_run=True, image="i")  # fmt: skip


KUBECONFIG = """apiVersion: v1
kind: Config
current-context: here
contexts: [{{name: here, context: {{cluster: c, user: u, namespace: vision}}}}]
clusters: [{{name: c, cluster: {{server: "http://{address}"}}}}]
users: [{{name: u, user: {{token: {secret}}}}}]
"""


@pytest.fixture
def reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[JobService], None]:
    def write(service: JobService) -> None:
        path = tmp_path / "kubeconfig"
        path.write_text(KUBECONFIG.format(address=service.address, secret=SECRET))
        monkeypatch.setenv("KUBECONFIG", str(path))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))

    return write


TRAINJOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/vision/trainjobs"
JOBS = "/apis/batch/v1/namespaces/vision/jobs"
PODS = "/api/v1/namespaces/vision/pods"


def _error(status: int, reason: str, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"kind": "Status", "reason": reason, "message": message, "code": status}


ANSWERS: dict[str, Any] = {
    "quota exceeded": (
        [_error(403, "Forbidden", "exceeded quota: gpus, requested: 8, limited: 4")],
        JobError, r"the quota does not suffice \(Forbidden: exceeded quota.*--gpus", 1,
    ),
    "not allowed": ([_error(403, "Forbidden", "cannot create trainjobs")], JobError, "refused", 1),
    "expired token": (
        [_error(401, "Unauthorized", "Unauthorized")],
        CredentialsError, "renew those of the kubeconfig", 1,
    ),
    "refused by a webhook": (
        [_error(422, "Invalid", "spec.runtimeRef: not found")], JobError, "runtimeRef", 1,
    ),
    "no Kubeflow Trainer": (
        [(404, b"404 page not found")], JobError, "no TrainJobs; install Kubeflow Trainer", 1,
    ),
    "no such namespace": ([_error(404, "NotFound", "no vision")], JobError, "not found", 1),
    "throttled, then well": (
        [_error(429, "TooManyRequests", "slow down"), (201, {})], None, "", 2,
    ),
    "500, then well": ([_error(500, "InternalError", "oops"), (201, {})], None, "", 2),
    "created by a failed request": (
        [_error(500, "InternalError", "oops"), _error(409, "AlreadyExists", "is there")],
        None, "", 2,
    ),
    "500 for ever": ([_error(500, "InternalError", "oops")], UnavailableError, "in 5 tries", 5),
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS)
def test_answers_to_create(
    config: str, case: str, reach: Callable[[JobService], None], caplog: pytest.LogCaptureFixture
) -> None:
    answers, kind, words, tries = ANSWERS[case]
    with serving({f"POST {TRAINJOBS}": answers}) as service:
        reach(service)
        if kind is None:
            sent = submit(config, on="kubernetes", **STANDALONE)
            names = {body["metadata"]["name"] for _, _, body in service.requests}
            assert {sent} == {f"trainjob/{name}" for name in names}
            assert sent.startswith("trainjob/shoes-")
            assert all("fieldValidation=Strict" in path for _, path, _ in service.requests)
        else:
            with pytest.raises(kind, match=words) as error:
                submit(config, on="kubernetes", **STANDALONE)
            assert "\n" not in str(error.value)
            assert SECRET not in str(error.value)
        assert service.count(f"POST {TRAINJOBS}") == tries
        assert SECRET not in json.dumps(service.requests)
        assert service.tokens == {f"Bearer {SECRET}"}
        assert SECRET not in caplog.text


def _train_job(*conditions: tuple[str, str, str], ready: int = 0) -> tuple[int, dict[str, Any]]:
    held = [{"type": kind, "status": "True", "reason": reason, "message": message}
            for kind, reason, message in conditions]  # fmt: skip
    status = {"conditions": held, "jobsStatus": [{"name": "node", "ready": ready}]}
    metadata = {"name": "shoes-1", "creationTimestamp": "2026-11-29T10:00:00Z"}
    return 200, {"metadata": metadata, "status": status}


def _pods(name: str, **state: Any) -> tuple[int, dict[str, Any]]:
    """One pod; of another machine too, whose log is not the first's."""
    container = {"name": "node", "image": "i", "imageID": "i", "ready": True, "restartCount": 0}
    pods = [
        {
            "metadata": {"name": f"{name}-{number}", "creationTimestamp": "2026-11-29T10:00:00Z",
                         "labels": {"batch.kubernetes.io/job-completion-index": str(number)}},
            "status": {"containerStatuses": [{**container, "state": state}]},
        }
        for number in (1, 0)
    ]  # fmt: skip
    return 200, {"items": pods}


def test_follow_to_a_failure(config: str, reach: Callable[[JobService], None]) -> None:
    running = {"running": {"startedAt": "2026-11-29T10:00:00Z"}}
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    with serving({
        f"GET {TRAINJOBS}/shoes-1": [
            _train_job(), _error(500, "InternalError", "?"), _train_job(ready=1),
            _train_job(("Failed", "JobsFailed", "jobset failed")),
        ],
        f"GET {PODS}": [_pods("p", **waiting), _pods("p", **running), _pods("p", **ended)],
        f"GET {PODS}/p-0/log": [(200, b"a\nb\nhal"), (200, b"a\nb\nhalf\n")],
    }) as service:  # fmt: skip
        reach(service)
        assert job_status("trainjob/shoes-1", "kubernetes").reason == (
            "ImagePullBackOff: no such image"
        )
        lines: list[str] = []
        with pytest.raises(
            JobError, match=r"shoes-1: failed: JobsFailed: jobset failed, OOMKilled"
        ):
            follow_job("trainjob/shoes-1", "kubernetes", write=lines.append)
        assert lines == ["a", "b", "half"]
        selectors = {path.partition("?")[2] for _, path, _ in service.requests if "pods?" in path}
        assert selectors == {"labelSelector=jobset.sigs.k8s.io%2Fjobset-name%3Dshoes-1"}


def test_submit_and_wait_on_the_command_line(
    config: str, reach: Callable[[JobService], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "shoes-111111"
    monkeypatch.setattr(
        "lookalike.jobs.kubernetes_cluster.uuid.uuid4", lambda: SimpleNamespace(hex="1" * 32)
    )
    running = {"running": {"startedAt": "2026-11-29T10:00:00Z"}}
    with serving({
        f"POST {TRAINJOBS}": [(201, {})],
        f"GET {TRAINJOBS}/{name}": [_train_job(ready=1), _train_job(("Complete", "", ""))],
        f"GET {PODS}": [_pods(name, **running)],
        f"GET {PODS}/{name}-0/log": [(200, b"step 1\n")],
    }) as service:  # fmt: skip
        reach(service)
        words = ["--on", "kubernetes", "--image", "i", "--mount", "shop:/data", "--wait"]
        done = CliRunner().invoke(app, ["submit", config, *words])
    assert done.exception is None, done.exception
    assert done.stdout == f"trainjob/{name}\n"
    assert "step 1\n" in done.stderr


STATES = {
    "waits": (_train_job(), JobState.QUEUED),
    "waits in Kueue": (_train_job(("Suspended", "Suspended", "is suspended")), JobState.QUEUED),
    "runs": (_train_job(ready=1), JobState.RUNNING),
    "runs again": (_train_job(("Created", "", ""), ready=2), JobState.RUNNING),
    "succeeded": (_train_job(("Complete", "", "")), JobState.SUCCEEDED),
    "failed": (_train_job(("Failed", "DeadlineExceeded", "12 h")), JobState.FAILED),
}


def test_states_list_stop_and_not_found(
    config: str, reach: Callable[[JobService], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = {"metadata": {"name": "embed-1", "creationTimestamp": "2026-11-29T11:00:00Z"},
           "status": {"conditions": [{"type": "Complete", "status": "True"}]}}  # fmt: skip
    with serving({
        f"GET {TRAINJOBS}/shoes-1": [answer for answer, _ in STATES.values()],
        f"GET {PODS}": [(200, {"items": []})],
        f"GET {TRAINJOBS}": [(200, {"items": [_train_job(ready=1)[1]]}), (404, b"404 page")],
        f"GET {JOBS}": [(200, {"items": [job]})],
        f"GET {TRAINJOBS}/gone": [_error(404, "NotFound", "no gone")],
        f"DELETE {TRAINJOBS}/shoes-1": [(200, {})],
    }) as service:  # fmt: skip
        reach(service)
        for name, (_, state) in STATES.items():
            assert job_status("trainjob/shoes-1", "kubernetes").state is state, name
        found = [(each.id, each.state) for each in list_jobs("kubernetes")]
        assert found == [
            ("job/embed-1", JobState.SUCCEEDED), ("trainjob/shoes-1", JobState.RUNNING),
        ]  # fmt: skip
        # A cluster without Kubeflow Trainer has Jobs alone.
        listed = CliRunner().invoke(app, ["jobs", "--on", "kubernetes"])
        assert listed.exception is None, listed.exception
        assert listed.stdout.split() == [
            "job/embed-1",
            "succeeded",
            "2026-11-29T11:00:00Z",
            "embed-1",
        ]
        told = CliRunner().invoke(app, ["jobs", "--on", "kubernetes", "--json"])
        assert [each["id"] for each in json.loads(told.stdout)] == ["job/embed-1"]
        stop_job("trainjob/shoes-1", "kubernetes")
        [deleted] = [path for method, path, _ in service.requests if method == "DELETE"]
        assert deleted.endswith("propagationPolicy=Background")
        with pytest.raises(JobError, match="trainjob/gone: not found"):
            job_status("trainjob/gone", "kubernetes")
        with pytest.raises(JobError, match="4711: no id of a job of Kubernetes"):
            job_status("4711", "kubernetes")
    with pytest.raises(UnavailableError, match="no good answer in 5 tries"):
        list_jobs("kubernetes")


@pytest.fixture
def without_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none")
    )


def test_no_cluster(without_kubeconfig: None) -> None:
    with pytest.raises(LookalikeError, match=r"no cluster.*set KUBECONFIG"):
        list_jobs("kubernetes")


def test_cluster_of_a_pod(
    without_kubeconfig: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("token", "ca.crt", "namespace"):
        (tmp_path / name).write_text({"token": SECRET, "namespace": "of-pod\n"}.get(name, "-"))
    module = "kubernetes.config.incluster_config.SERVICE_"
    monkeypatch.setattr(f"{module}TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(f"{module}CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr("lookalike.jobs.kubernetes_cluster.POD_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    assert connect(Resources()).namespace == "of-pod"


def test_bare_start_on_one_of_several_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    from lookalike.distributed.world import World

    monkeypatch.setenv("PET_NNODES", "2")
    with pytest.raises(ConfigError, match="lookalike submit --on kubernetes"):
        World.from_env("cpu")
