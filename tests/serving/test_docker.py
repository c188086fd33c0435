"""The container: its files agree with each other and with the program, and its steps run here.

No image is built, since that needs a daemon.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dockerfile import command_of, instructions

from lookalike.serving.access import Access
from lookalike.serving.service_limits import ServiceLimits

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"


def test_hadolint_finds_nothing():
    program = Path(sys.executable).with_name("hadolint")
    file = str(DOCKER / "Dockerfile")
    done = subprocess.run([program, file], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    bad = subprocess.run([program, "-"], input="FROM python\n", capture_output=True, text=True)
    assert "DL3006" in bad.stdout


def test_the_steps_are_those_of_the_script():
    steps = [text for word, text in instructions() if word in ("COPY", "RUN")]
    assert "docker/install.sh /source /opt/lookalike" in steps[3]
    copied = {name for text in steps[:3] for name in text.split()[:-1]}
    permitted = {line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().split("\n")
                 if line.startswith("!")}  # fmt: skip
    assert copied == permitted
    assert all((ROOT / name).exists() for name in copied)
    assert os.access(DOCKER / "install.sh", os.X_OK)


def test_it_runs_as_another_user_than_root_and_stops_by_sigterm():
    words = dict(instructions())
    assert words["USER"].isdecimal()
    assert words["USER"] in next(text for word, text in instructions() if "useradd" in text)
    assert words["STOPSIGNAL"] == "SIGTERM"
    assert command_of("ENTRYPOINT")[0] == "lookalike"  # no shell between, which keeps signals


def test_the_compose_file_fits_the_dockerfile():
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    entry = command_of("ENTRYPOINT")
    assert entry[entry.index("--token-file") + 1] == "/run/secrets/" + next(
        iter(compose["secrets"])
    )
    port = entry[entry.index("--port") + 1]
    for service in compose["services"].values():
        assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
        assert service["command"][:3] == command_of("CMD")
        assert {volume.rpartition(":/")[2] for volume in service["volumes"]} == {
            "model:ro",
            "index",
        }
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        assert (DOCKER / service["build"]["context"]).resolve() == ROOT
        # Docker kills what has not ended by then: a body may take its time, and its answer again.
        seconds = ServiceLimits().seconds
        assert int(service["stop_grace_period"].removesuffix("s")) > 2 * seconds
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
    args = compose["services"]["cpu"]["build"]["args"]
    assert set(args) <= {text.partition("=")[0] for word, text in instructions() if word == "ARG"}


def test_the_health_check_asks_for_the_port_without_a_token():
    [program] = re.findall(r"https?://\S+?'", json.dumps(command_of("HEALTHCHECK")))
    entry = command_of("ENTRYPOINT")
    path = "/" + program.rstrip("'").split("/", 3)[3]
    assert f"127.0.0.1:{entry[entry.index('--port') + 1]}/" in program
    assert Access(host="0.0.0.0", token="0123456789abcdef").is_open(path)


@pytest.mark.slow
def test_the_script_installs_a_program_that_starts(tmp_path):
    """The packages that it needs are those of this environment."""
    source = tmp_path / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    environment = {**os.environ, "PYTHONPATH": packages}
    target = tmp_path / "target"
    done = subprocess.run(
        [DOCKER / "install.sh", source, target], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = subprocess.run(
        [target / "bin/python", "-c", "import lookalike; print(lookalike.__file__)"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(found.stdout.strip()).is_relative_to(target)
    assert "--token-file" in (target / "help.txt").read_text()
    assert not (target / "bin/pip").exists()
    assert not list(target.rglob("__pycache__"))
