"""The sbatch script: its text, what is refused, and no secret in it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lookalike
from lookalike.cli import app
from lookalike.cli.submitted_words import submit
from lookalike.errors import ConfigError
from lookalike.jobs.engine import JobError, JobState, follow
from lookalike.jobs.request import command_job
from lookalike.jobs.resources import Resources
from lookalike.jobs.slurm import Slurm

GOLDEN = Path(__file__).parent / "golden"

CONFIG = """# Shoes: two lists in object storage.
data:
  train: oss://shop/train.txt
  val: oss://shop/val.txt
run:
  output: oss://shop/runs/shoes
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "shoes.yaml").write_text(CONFIG)
    return str(tmp_path / "shoes.yaml")


def test_script_of_two_machines(config: str) -> None:
    text = submit(
        config, "optim.lr=0.1", on="slurm", dry_run=True, nodes=2, gpus=8, gpu_type="h100",
        cpus=64, memory="512GiB", time_limit="12h", environment={"NCCL_DEBUG": "WARN"},
        priority="high", retries=3,
        slurm={"partition": "gpu", "setup": ["source venv/bin/activate"]},
    )  # fmt: skip
    assert text == (GOLDEN / "slurm-two-machines.sh").read_text()


def test_script_of_one_worker_in_a_container(config: str) -> None:
    text = submit(
        config, on="slurm", dry_run=True, image="lookalike:0.1", mounts=["/data:/data:ro"]
    )
    assert text == (GOLDEN / "slurm-one-worker.sh").read_text()


@pytest.mark.parametrize("name", ["slurm-two-machines.sh", "slurm-one-worker.sh"])
def test_script_is_bash_and_holds_the_file_unchanged(name: str) -> None:
    text = (GOLDEN / name).read_text()
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert CONFIG in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"environment": {"OSS_ACCESS_KEY_SECRET": "abc123"}}, "OSS_ACCESS_KEY_SECRET looks like"),
        (
            {"environment": {"PROXY": "http://me:pw9@host/"}},
            "environment.PROXY looks like a secret",
        ),
        ({"mounts": ["/data:/data"]}, "give --image"),
        ({"time_limit": "4m"}, "time_limit=4m must be longer than grace=5m"),
        ({"grace": 60}, "grace=60 is not a time; write e.g. 90s"),
        ({"nodes": 0}, "nodes=0"),
        ({"machines": 2}, "machines is not a key of the resources"),
        ({"slurm": "big"}, r"slurm='big': input should be a mapping, \{key: value\}"),
        ({"environment": ["TOKEN=abc123"]}, "^environment: input should be a mapping"),
        ({"environment": {"PIN": 123123}}, "^environment.PIN: input should be a valid string"),
        ({"environment": {"A-B": "1", "X": "pw9"}}, "^environment names 'A-B', which no variable"),
        ({"kubernetes": {"secrets": "abc123"}}, "^kubernetes.secrets: input should be a mapping"),
        ({"kubernetes": {"secrets": {"A": ["abc123"]}}}, "^kubernetes.secrets.A: input should be"),
        ({"name": "My Job"}, "is no name of a job"),
        ({"gpu_type": ""}, "gpu_type='' is not one word"),
        ({"gpu_type": "h 100"}, "gpu_type='h 100' is not one word"),
        ({"machine": "rack\t1"}, "is not one word"),
        ({"image": " "}, "image=' ' is not one word"),
        ({"priority": "very high"}, "'very high' is not one word"),
        ({"priority": -5}, "priority=-5: Slurm takes 0 or more"),
        ({"slurm": {"partition": "a\n#SBATCH --wrap=x"}}, "slurm.partition=.* is not one word"),
        ({"mounts": ["/a:/data", "/b:/data/"], "image": "i"}, "has /data twice"),
    ],
)
def test_what_cannot_be_is_refused(config: str, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        submit(config, on="slurm", dry_run=True, **changes)
    assert "abc123" not in str(error.value)
    assert "123123" not in str(error.value)
    assert "pw9" not in str(error.value)


def test_signed_address_is_refused_without_being_shown(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.replace("train.txt", "train.txt?Signature=sEcReT&Expires=1"))
    with pytest.raises(ConfigError, match="with a signature or a password") as error:
        submit(str(path), on="slurm", dry_run=True)
    assert "sEcReT" not in str(error.value)


def test_credentials_of_the_environment_are_not_in_the_script(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", "sEcReT")
    assert "sEcReT" not in submit(config, on="slurm", dry_run=True, nodes=2)


def test_other_commands(tmp_path: Path) -> None:
    text = submit(
        "embed", "oss://shop/runs/shoes", "a list.txt", "-o", "out.parquet",
        on="slurm", dry_run=True,
    )  # fmt: skip
    assert "-m lookalike embed oss://shop/runs/shoes 'a list.txt' -o out.parquet\n" in text
    with pytest.raises(ConfigError, match="doctor cannot be submitted"):
        command_job(["doctor"], Resources())
    for word in ("doctor", "nothing-there"):
        with pytest.raises(ConfigError, match=f"{word}: neither a YAML file nor a command"):
            submit(word, "x", on="slurm", dry_run=True)
    with pytest.raises(ConfigError, match=r"s3://shop/c\.yaml: an address, where a file of this"):
        submit("s3://shop/c.yaml", on="slurm", dry_run=True)
    for words in (["--train", "a.txt"], ["--resume", "--train", "a.txt"]):
        text = submit("train", "--output=r", *words, on="slurm", dry_run=True)  # another resumes
        assert text.count(" --resume") == 1


@pytest.mark.parametrize("form", ["train.recipe={}", "--recipe={}", "--recipe {}"])
def test_a_recipe_goes_with_the_job_in_each_form(form: str, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("optim: {lr: 0.1}\n")
    words = form.format(recipe).split()
    job = command_job(["train", "--train", "t.txt", "--output", "2024", *words], Resources())
    assert job.files == {"r.yaml": "optim: {lr: 0.1}\n"}
    assert job.arguments[4:-1] == tuple(form.format("r.yaml").split())


def test_mistake_in_the_words_of_a_command_is_refused_before_it_is_sent() -> None:
    for words, message in (
        (
            ("embed", "run", "photos", "-o", "x.npy", "--wrokers", "2"),
            "embed: No such option: --wrokers",
        ),
        (("embed", "run", "photos"), "embed: Missing option '--output'"),
        (("evaluate", "run", "--workers", "many"), "evaluate: Invalid value for '--workers'"),
        (("embed", "run", "photos", "-o", "x.txt"), "must end in .npy or .parquet"),
        (("evaluate", "run"), "nothing to measure on"),
        (("evaluate", "run", "--data", "x", "--per-class", "x.txt"), "must end in .csv"),
        (("train", "optim.lrr=1", "--output", "r"), "optim.lrr"),
        (("train", "--epochs", "0", "--output", "r"), "train.epochs=0"),
        (("train", "--train", "a.txt"), "a job needs run.output"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)) as typed:
            CliRunner().invoke(
                app, ["submit", "--on", "slurm", "--dry-run", "--", *words], catch_exceptions=False
            )
        with pytest.raises(ConfigError) as called:
            submit(*words, on="slurm", dry_run=True)
        assert str(called.value) == str(typed.value)
        assert "\n" not in str(called.value)


def test_the_configuration_of_a_command_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("data: {train: /lists/a.txt}\nrun: {output: oss://b/r}\n")
    words = ("train", str(file), "--epochs=3", "--train", "/x/1.txt", "--train", "/x/2.txt")
    submit(*words, on="slurm", dry_run=True)
    lists = (("/lists/a.txt", words[:3]), ("/x/2.txt", words))
    for place, some in lists:  # that of a file, and those of flags
        with pytest.raises(ConfigError, match=f"{place}: is in no mount of the container"):
            submit(*some, on="kubernetes", dry_run=True, image="i", mounts=["s:/x/1.txt"])
    file.write_text("data: {train: https://me:secret@example.com/a.txt}\nrun: {output: r}\n")
    with pytest.raises(ConfigError, match="holds an address with a signature or a password"):
        submit("train", str(file), on="slurm", dry_run=True)
    file.write_text("optim: {lr: fast}\n")
    with pytest.raises(ConfigError, match=r"config.yaml:1: optim.lr='fast'"):
        submit("train", str(file), on="slurm", dry_run=True)


def test_lines_before_the_start_may_use_variables_that_are_not_set(config: str) -> None:
    text = submit(config, on="slurm", dry_run=True, slurm={"setup": ["module load $NOT_SET"]})
    lines = text.splitlines()
    assert lines.index("module load $NOT_SET") < lines.index("set -u")


def test_program_that_is_not_installed(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(JobError, match=r"sbatch: no such program.*--dry-run"):
        submit(config, on="slurm")


_ANSWERS = {
    "PENDING": (JobState.QUEUED, "Resources"),
    "RUNNING": (JobState.RUNNING, ""),
    "COMPLETED": (JobState.SUCCEEDED, ""),
    "TIMEOUT": (JobState.FAILED, "timeout"),
    "CANCELLED": (JobState.STOPPED, ""),
    "FAILED": (JobState.FAILED, "exit code 2"),
}


@pytest.mark.parametrize("word", _ANSWERS)
def test_states(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "Resources" if word == "PENDING" else "None"
    line = f"JobId=7 JobName=a JobState={word} Reason={reason} ExitCode=2:0 SubmitTime=T"
    program = tmp_path / "scontrol"
    program.write_text(f"#!/bin/sh\necho '{line}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = Slurm().status("7")
    assert (found.state, found.reason) == _ANSWERS[word]


def test_interrupt_of_following_says_that_the_job_goes_on(caplog) -> None:
    class Pressed:
        def status(self, job: str) -> None:
            raise KeyboardInterrupt

    caplog.set_level("INFO", "lookalike")
    with pytest.raises(KeyboardInterrupt):
        follow(Pressed(), "7", print)  # type: ignore[arg-type]
    assert "7: goes on; `lookalike jobs 7 --on ... --stop` stops it" in caplog.text


def test_names_and_paths_with_spaces_and_bars(tmp_path: Path, monkeypatch) -> None:
    log = tmp_path / "my runs/shoes-7.log"
    log.parent.mkdir()
    log.write_text("step 1\nstep")
    lines = {
        "scontrol": f"JobId=7 JobName=a JobState=RUNNING Reason=None StdErr={log} StdIn=/dev/null "
        f"StdOut={log} Power=",
        "squeue": "8|RUNNING|T|None|my | comment|x|y\n7|RUNNING|T|None|lookalike|shoes",
    }
    for name, text in lines.items():
        (tmp_path / name).write_text(f"#!/bin/sh\ncat <<'E'\n{text}\nE\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    slurm = Slurm()
    assert slurm.new_log("7") == ["step 1"]
    assert [(job.id, job.name, job.state) for job in slurm.jobs()] == [
        ("7", "shoes", JobState.RUNNING)
    ]


@pytest.mark.skipif(shutil.which("squeue") is None, reason="needs Slurm's programs")
def test_machine_without_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CONF", raising=False)
    if Path("/etc/slurm/slurm.conf").exists():
        pytest.skip("this machine has a cluster")
    with pytest.raises(JobError, match=r"^Slurm: squeue refuses: Could not .*by SLURM_CONF$"):
        Slurm().jobs()


def test_refusal_in_one_line(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "sbatch"
    program.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition: x' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(lookalike.LookalikeError, match=r"sbatch refuses: invalid partition: x$"):
        submit(config, on="slurm")
