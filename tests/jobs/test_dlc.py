"""DLC: golden requests, read by the vendor's models, and a local server that plays the service."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from job_service import serving

from lookalike.cli.submitted_words import submit
from lookalike.distributed.world import World
from lookalike.errors import ConfigError, CredentialsError, MissingExtraError, UnavailableError
from lookalike.jobs.dlc import Dlc, connect
from lookalike.jobs.engine import JobError, JobState, follow
from lookalike.jobs.resources import Resources

models = pytest.importorskip("alibabacloud_pai_dlc20201203.models")

GOLDEN = Path(__file__).parent / "golden"
CONFIG = """data: {train: oss://shop/train.txt, val: /data/val.txt}
run: {output: oss://shop/runs/shoes}
"""
STANDALONE: dict[str, Any] = {
    "image": "registry.example/lookalike:0.1", "machine": "ecs.gn7i-c8g1.2xlarge",
    "mounts": [{"source": "oss://shop/data/", "path": "/data", "read_only": True,
                "options": {"mountType": "ossfs"}, "role": "acs:ram::1:role/reader"}],
    "dlc": {"workspace": "77", "spot_discount": 0.5}, "time_limit": "90s", "grace": "60s",
}  # fmt: skip
DISTRIBUTED: dict[str, Any] = {
    "image": "registry.example/lookalike:0.1", "nodes": 4, "gpus": 8, "gpu_type": "GU8T",
    "cpus": 64, "memory": "512GiB", "shared_memory": "64GiB", "mounts": ["d-abc:/data:ro"],
    "dlc": {"workspace": "77", "quota": "quota1", "sanity_check": True, "vpc": "vpc-1"},
    "priority": 5, "environment": {"NCCL_DEBUG": "WARN"}, "retries": 0,
}  # fmt: skip
SECRET = "sEcReT"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", SECRET)
    monkeypatch.setattr("lookalike.jobs.engine.time.sleep", lambda seconds: None)
    (tmp_path / "shoes.yaml").write_text(CONFIG)
    return str(tmp_path / "shoes.yaml")


@pytest.mark.parametrize(
    ("name", "resources"), [("standalone", STANDALONE), ("distributed", DISTRIBUTED)]
)
def test_request(config: str, name: str, resources: dict[str, Any]) -> None:
    text = submit(config, on="dlc", dry_run=True, **resources)
    assert text == (GOLDEN / f"dlc-{name}.json").read_text()
    assert SECRET not in text
    body = json.loads(text)
    message = models.CreateJobRequest().from_map(body)
    message.validate()
    assert _filled(message.to_map()) == body
    assert CONFIG in body["UserCommand"]


def _filled(tree: Any) -> Any:
    """Without the empty lists that the vendor's models add."""
    if isinstance(tree, dict):
        return {key: _filled(value) for key, value in tree.items() if value != []}
    return [_filled(each) for each in tree] if isinstance(tree, list) else tree


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "needs an image"),
        ({"machine": None}, "either a machine type"),
        ({"mounts": []}, r"data.val=/data/val.txt: is in no mount of the container"),
        ({"priority": 10}, r"DLC takes 1 \(lowest\) to 9"),
        ({"dlc": {"quota": "q"}, "machine": None}, "needs cpus and memory"),
        ({"dlc": {"switch": "vsw-1"}}, r"need dlc\.vpc"),
    ],
)
def test_what_the_vendor_does_not_check(config: str, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        submit(config, on="dlc", dry_run=True, **{**STANDALONE, **changes})


def _error(status: int, code: str, words: str) -> tuple[int, dict[str, str]]:
    return status, {"Code": code, "Message": words, "RequestId": "R"}


def _job(status: str, **more: Any) -> tuple[int, dict[str, Any]]:
    pods = [{"PodId": "p0", "Status": status}]
    return 200, {"JobId": "dlc1", "DisplayName": "shoes", "Status": status, "Pods": pods, **more}


CREATE, LIST = "POST /api/v1/jobs", "GET /api/v1/jobs"
CREATED = (200, {"JobId": "dlc1"})
ANSWERS: dict[str, Any] = {
    "quota exceeded": ([_error(403, "QuotaExceeded", "too many GPUs")], JobError, "--gpus", 1),
    "expired token": (
        [_error(403, "InvalidSecurityToken.Expired", "expired")],
        CredentialsError, "renew them", 1,
    ),
    "bad request": ([_error(400, "BadRequest", "no such image")], JobError, "no such image", 1),
    "throttled, then well": ([_error(429, "Throttling.User", "slow"), CREATED], None, "", 2),
    "500, then well": ([_error(500, "InternalError", "oops"), CREATED], None, "", 2),
    "500 for ever": ([_error(500, "InternalError", "oops")], UnavailableError, "in 5 tries", 5),
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS)
def test_answers_to_create(config: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, kind, words, tries = ANSWERS[case]
    nothing = (200, {"Jobs": [], "TotalCount": 0})
    with serving({CREATE: answers, LIST: [nothing]}) as service:
        monkeypatch.setenv("PAI_DLC_ENDPOINT", service.address)
        if kind is None:
            assert submit(config, on="dlc", **STANDALONE) == "dlc1"
        else:
            with pytest.raises(kind, match=words) as error:
                submit(config, on="dlc", **STANDALONE)
            assert "\n" not in str(error.value)
            assert SECRET not in str(error.value)
        assert service.count(CREATE) == tries
        assert SECRET not in json.dumps(service.requests)


def test_job_created_by_a_failed_request_is_not_created_again(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = (200, {"Jobs": [{"JobId": "dlc9"}], "TotalCount": 1})
    with serving({CREATE: [_error(502, "BadGateway", "?")], LIST: [jobs]}) as service:
        monkeypatch.setenv("PAI_DLC_ENDPOINT", service.address)
        assert submit(config, on="dlc", **STANDALONE) == "dlc9"
        assert service.count(CREATE) == 1


def _engine(monkeypatch: pytest.MonkeyPatch, address: str) -> Dlc:
    monkeypatch.setenv("PAI_DLC_ENDPOINT", address)
    return connect(Resources())


def test_follow_list_stop_and_not_found(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job, log = "/api/v1/jobs/dlc1", "/api/v1/jobs/dlc1/pods/p0/logs"
    failed = _job("Failed", ReasonCode="JobFailed", ReasonMessage="exit code 2")
    listed = [
        {"JobId": "dlc1", "Status": "Queuing", "Settings": {"Tags": {"lookalike": "train"}}},
        {"JobId": "other", "Status": "Running"},
    ]
    with serving({
        f"GET {job}": [_job("Queuing"), _error(500, "InternalError", "?"), _job("Running"),
                       _job("Running"), failed],
        f"GET {log}": [(200, {"Logs": ["a", "b"]}), (200, {"Logs": ["a", "b", "c"]})],
        f"POST {job}/stop": [(200, {"JobId": "dlc1"})],
        LIST: [(200, {"Jobs": listed})],
        "GET /api/v1/jobs/gone": [_error(404, "JobNotFound", "no such job")],
    }) as service:  # fmt: skip
        engine = _engine(monkeypatch, service.address)
        lines: list[str] = []
        with pytest.raises(JobError, match=r"dlc1: failed: JobFailed: exit code 2"):
            follow(engine, "dlc1", lines.append)
        assert lines == ["a", "b", "c"]
        assert [(each.id, each.state) for each in engine.jobs()] == [("dlc1", JobState.QUEUED)]
        engine.stop("dlc1")
        assert service.count(f"POST {job}/stop") == 1
        with pytest.raises(JobError, match="gone: not found"):
            engine.status("gone")


def test_service_that_does_not_answer(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({}) as service:
        pass
    with pytest.raises(UnavailableError, match="dlc1: no good answer in 5 tries"):
        _engine(monkeypatch, service.address).status("dlc1")


def test_a_missing_region_is_named_before_the_missing_sdk(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "alibabacloud_credentials", None)
    monkeypatch.setitem(sys.modules, "alibabacloud_credentials.client", None)
    for name in ("ALIBABA_CLOUD_REGION_ID", "PAI_DLC_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="DLC needs a region"):
        connect(Resources())
    monkeypatch.setenv("ALIBABA_CLOUD_REGION_ID", "cn-hangzhou")
    with pytest.raises(MissingExtraError, match=r"lookalike\[dlc\]"):
        connect(Resources())


def test_missing_credentials_are_one_line(monkeypatch, caplog) -> None:
    def none(self: object) -> None:
        logging.getLogger("credentials").error("HttpCode=404", exc_info=True)  # as the SDK does
        raise ValueError("no provider")

    monkeypatch.setattr("alibabacloud_credentials.client.Client.get_credential", none)
    monkeypatch.setenv("ALIBABA_CLOUD_REGION_ID", "cn-shanghai")
    with pytest.raises(CredentialsError, match=r"DLC: no credentials .*ACCESS_KEY_ID"):
        connect(Resources())
    assert "HttpCode" not in caplog.text


@pytest.mark.parametrize("token", [None, "token"])
def test_keys_of_the_environment_count_after_the_import(monkeypatch, token) -> None:
    import alibabacloud_credentials.client as client

    for name, value in (("ID", "late"), ("SECRET", SECRET)):
        monkeypatch.setenv(f"ALIBABA_CLOUD_ACCESS_KEY_{name}", value)
    if token:
        monkeypatch.setenv("ALIBABA_CLOUD_SECURITY_TOKEN", token)
    monkeypatch.setenv("ALIBABA_CLOUD_REGION_ID", "cn-shanghai")
    found, original = [], client.Client.get_credential

    def noted(self: Any) -> Any:
        found.append(original(self))
        return found[-1]

    monkeypatch.setattr(client.Client, "get_credential", noted)
    connect(Resources())
    keys = [found[0].access_key_id, found[0].access_key_secret, found[0].security_token]
    assert keys == ["late", SECRET, token]


def test_bare_start_on_a_machine_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "m", "MASTER_PORT": "23456",
              "NPROC_PER_NODE": "8"}  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"torchrun --nnodes=\$WORLD_SIZE --node-rank=\$RANK"):
        World.from_env("cpu")


def test_start_of_each_of_two_machines(config: str, tmp_path: Path) -> None:
    """The command, with a program in place of Python that tells its arguments."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    program.chmod(0o755)
    resources = {**STANDALONE, "nodes": 2, "gpus": 0, "python": str(program)}
    request = json.loads(submit(config, on="dlc", dry_run=True, **resources))
    variables = {"WORLD_SIZE": "2", "RANK": "1", "NPROC_PER_NODE": "8", "MASTER_ADDR": "m",
                 "MASTER_PORT": "23456", "PATH": os.environ["PATH"],
                 "TMPDIR": str(tmp_path)}  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", request["UserCommand"]], env=variables, capture_output=True, text=True
    )
    *words, file, last = done.stdout.splitlines()
    assert words == [
        "-m", "torch.distributed.run", "--nnodes=2", "--node-rank=1", "--master-addr=m",
        "--master-port=23456", "--nproc-per-node=8", "-m", "lookalike", "train",
    ]  # fmt: skip
    assert Path(file).read_text() == CONFIG
    assert last == "--resume"
