"""Slurm: an sbatch script, sent and followed by Slurm's own programs."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from lookalike.errors import ConfigError
from lookalike.jobs.engine import JobError, JobState, JobStatus
from lookalike.jobs.request import START_END, JobRequest, check_places, start_script
from lookalike.jobs.resources import Resources
from lookalike.storage.byte_size import in_bytes

_MARK = "lookalike"  # comment of our jobs

_STATES = {  # any other is of a job that runs
    "PENDING": JobState.QUEUED, "CONFIGURING": JobState.QUEUED, "REQUEUED": JobState.QUEUED,
    "REQUEUE_HOLD": JobState.QUEUED, "REQUEUE_FED": JobState.QUEUED, "SUSPENDED": JobState.QUEUED,
    "SPECIAL_EXIT": JobState.QUEUED, "RESV_DEL_HOLD": JobState.QUEUED,
    "COMPLETED": JobState.SUCCEEDED, "CANCELLED": JobState.STOPPED, "PREEMPTED": JobState.STOPPED,
    "FAILED": JobState.FAILED, "TIMEOUT": JobState.FAILED, "NODE_FAIL": JobState.FAILED,
    "BOOT_FAIL": JobState.FAILED, "DEADLINE": JobState.FAILED, "OUT_OF_MEMORY": JobState.FAILED,
    "REVOKED": JobState.STOPPED,
}  # fmt: skip

_TORCHRUN = (
    '--nnodes="$SLURM_NNODES"', '--node-rank="$SLURM_NODEID"',
    '--master-addr="$LOOKALIKE_HEAD"', '--master-port="$LOOKALIKE_PORT"',
)  # fmt: skip


def render(job: JobRequest, resources: Resources) -> str:
    """The sbatch script.

    The batch shell gets SIGUSR1 before the time limit and hands SIGTERM to all workers, which save
    a checkpoint; then it queues the job again, and the next start resumes.

    Raises:
        ConfigError: the resources have what Slurm cannot give.
    """
    _check(job, resources)
    workers = job.workers_of_machine(resources)
    alone = resources.nodes == workers == 1
    torchrun = () if alone else (*_TORCHRUN, f"--nproc-per-node={workers}")
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in _options(job, resources))]
    # Modules and conda use variables that are not set: their lines come before `set -u`.
    lines += [*_exports(resources), *resources.slurm.setup, "set -u"]
    if not alone:
        lines += [
            'first="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"',
            "# Its address: a node's name need not be that of a host.",
            'LOOKALIKE_HEAD="$(scontrol --oneliner show node "$first" '
            "| sed -n 's/.* NodeAddr=\\([^ ]*\\).*/\\1/p')\"",
            "LOOKALIKE_PORT=$((20000 + SLURM_JOB_ID % 10000))",
            "export LOOKALIKE_HEAD LOOKALIKE_PORT",
        ]
    start = start_script(job, resources, torchrun).rstrip("\n")
    lines += [
        f"IFS= read -r -d '' start <<'{START_END}'\n{start}\n{START_END}",
        "stopping=",
        'stop() { stopping=1; scancel --signal=TERM "$SLURM_JOB_ID"; }',
        "trap stop USR1",
        f'srun {" ".join(_step_options(resources))} bash -c "$start" &',
        "steps=$!",
        'wait "$steps"; code=$?',
        "# A signal ends wait, not the steps.",
        'while kill -0 "$steps" 2>/dev/null; do wait "$steps"; code=$?; done',
        '[ "$code" -eq 0 ] && exit 0',
    ]
    if job.resumes:
        lines.append('[ -n "$stopping" ] && scontrol requeue "$SLURM_JOB_ID" && exit "$code"')
    lines += [
        f'[ -z "$stopping" ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {resources.retries} ] '
        '&& scontrol requeue "$SLURM_JOB_ID"',
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"


def _check(job: JobRequest, resources: Resources) -> None:
    if job.command == "run" and resources.image is not None:
        check_places(job, resources)
    if resources.mounts and resources.image is None:
        raise ConfigError(
            "mounts: Slurm mounts only into a container; give --image, or use the paths of the "
            "machines"
        )
    if isinstance(resources.priority, int) and resources.priority < 0:
        raise ConfigError(
            f"priority={resources.priority}: Slurm takes 0 or more (0 holds the job), or a QOS"
        )


def _options(job: JobRequest, resources: Resources) -> Iterator[str]:
    slurm = resources.slurm
    yield f"--job-name={job.name}"
    yield f"--comment={_MARK}"
    yield f"--output={job.name}-%j.log"
    yield "--open-mode=append"
    yield f"--nodes={resources.nodes}"
    yield "--ntasks-per-node=1"
    if resources.cpus is not None:
        yield f"--cpus-per-task={resources.cpus}"
    if resources.memory is not None:
        yield f"--mem={max(1, in_bytes(resources.memory) // 2**20)}M"
    if resources.gpus:
        kind = f"{resources.gpu_type}:" if resources.gpu_type else ""
        yield f"--gpus-per-node={kind}{resources.gpus}"
    if resources.machine is not None:
        yield f"--constraint={shlex.quote(resources.machine)}"
    if (limit := resources.limit_seconds) is not None:
        hours, rest = divmod(limit, 3600)
        yield f"--time={hours}:{rest // 60:02}:{rest % 60:02}"
    yield f"--signal=B:USR1@{resources.grace_seconds}"
    yield "--requeue"
    if slurm.partition is not None:
        yield f"--partition={slurm.partition}"
    if slurm.account is not None:
        yield f"--account={slurm.account}"
    if resources.priority is not None:
        name = "priority" if isinstance(resources.priority, int) else "qos"
        yield f"--{name}={resources.priority}"
    yield from slurm.options


def _exports(resources: Resources) -> Iterator[str]:
    for name, value in resources.environment.items():
        yield f"export {name}={shlex.quote(value)}"


def _step_options(resources: Resources) -> Iterator[str]:
    yield "--kill-on-bad-exit=1"
    if resources.cpus is not None:  # not inherited since Slurm 22.05
        yield f"--cpus-per-task={resources.cpus}"
    if resources.image is not None:
        yield f"--container-image={shlex.quote(resources.image)}"
    if resources.mounts:
        mounts = [f"{m.source}:{m.path}{':ro' if m.read_only else ''}" for m in resources.mounts]
        yield f"--container-mounts={shlex.quote(','.join(mounts))}"


class Slurm:
    """The cluster that Slurm's programs on this machine reach."""

    def __init__(self) -> None:
        self._read: dict[str, int] = {}

    def send(self, request: str) -> str:
        """Queue a script from the current directory; the number of the job."""
        return _output(["sbatch", "--parsable"], "Slurm", request).strip().partition(";")[0]

    def status(self, job: str) -> JobStatus:
        """The state of a job; Slurm's controller forgets ended ones after some minutes."""
        return _status(self._facts(job))

    def _facts(self, job: str) -> dict[str, str]:
        if not job.isdecimal():
            raise JobError(f"{job}: no number of a job of Slurm")
        text = _output(["scontrol", "--oneliner", "show", "job", job], job)
        # Values, as the path of the log, may hold spaces.
        return dict(re.findall(r"(?:^|\s)([A-Z][\w:/]*)=(.*?)(?=\s+[A-Z][\w:/]*=|\s*$)", text))

    def new_log(self, job: str) -> list[str]:
        """Whole lines of the log file since the last call, where it can be read from here."""
        path = Path(self._facts(job).get("StdOut", ""))
        if not path.is_file():
            return []
        with path.open("rb") as file:
            file.seek(self._read.get(job, 0))
            found = file.read()
        whole = found[: found.rfind(b"\n") + 1]
        self._read[job] = self._read.get(job, 0) + len(whole)
        return whole.decode("utf-8", "replace").splitlines()

    def stop(self, job: str) -> None:
        """Cancel a job: SIGTERM, and SIGKILL after the cluster's KillWait."""
        self._facts(job)
        _output(["scancel", job], job)

    def jobs(self) -> list[JobStatus]:
        """Jobs of this user that are queued, run or have just ended."""
        text = _output(
            [
                "squeue",
                "--me",
                "--noheader",
                "--states=all",
                "--sort=-i",
                "--format=%i|%T|%V|%r|%k|%j",
            ],
            "Slurm",
        )
        found = [line.split("|", 5) for line in text.splitlines()]
        return [
            JobStatus(number, name, _STATES.get(state, JobState.RUNNING), _reason(state, why), made)
            for number, state, made, why, mark, name in found
            if mark == _MARK
        ]


def _status(facts: dict[str, str]) -> JobStatus:
    state = facts.get("JobState", "")
    reason = _reason(state, facts.get("Reason", "None"))
    if state == "FAILED":
        reason = f"exit code {facts.get('ExitCode', '?').partition(':')[0]}"
    return JobStatus(
        facts["JobId"],
        facts.get("JobName", ""),
        _STATES.get(state, JobState.RUNNING),
        reason,
        facts.get("SubmitTime", ""),
    )


def _reason(state: str, why: str) -> str:
    plain = state in ("RUNNING", "PENDING", "COMPLETED", "CANCELLED")
    parts = ["" if plain else state.lower(), "" if why in ("None", "") else why]
    return ", ".join(filter(None, parts))


_NEEDLESS = re.compile(
    r"(?:sbatch|scancel|squeue|scontrol): (?:error|fatal): |slurm_load_jobs error: "
)


def _output(command: Sequence[str], what: str, given: str = "") -> str:
    """Standard output of one of Slurm's programs."""
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, check=False, timeout=120
        )
    except FileNotFoundError:
        raise JobError(
            f"{command[0]}: no such program; run this where Slurm is installed, or print the "
            "script with --dry-run and queue it there"
        ) from None
    except subprocess.TimeoutExpired:
        raise JobError(f"{what}: Slurm's {command[0]} does not answer in two minutes") from None
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        text = words[-1] if words else f"exit code {done.returncode}"
        if len(words) > 1 and words[-1].startswith("sbatch: error: Batch job submission failed"):
            text = "; ".join(words)
        text = _NEEDLESS.sub("", text)
        if "configuration source" in text:
            text += "; run this on a machine of the cluster, or name its slurm.conf by SLURM_CONF"
        raise JobError(f"{what}: {command[0]} refuses: {text}")
    return done.stdout


def connect(resources: Resources) -> Slurm:
    """The cluster of this machine."""
    return Slurm()


def shown(request: str) -> str:
    """The script itself."""
    return request
