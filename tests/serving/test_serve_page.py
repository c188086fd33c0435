"""The clients on the page about serving, as they stand there."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from conversation import listening, small_service

PAGE = Path(__file__).parents[2] / "docs" / "serve.md"
ADDRESS = "http://127.0.0.1:8080"


@pytest.fixture
def folder(files, tmp_path, monkeypatch):
    """The reader's, with two images."""
    shutil.copy(files[0], tmp_path / "query.jpg")
    shutil.copy(files[1], tmp_path / "a.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def block(language, heading="## A client"):
    part = PAGE.read_text("utf-8").partition(heading)[2]
    return re.search(rf"^```{language}\n(.*?)^```", part, re.M | re.S)[1]


@pytest.fixture
def address(model, gallery, tmp_path):
    shutil.copytree(gallery, tmp_path / "index")
    with listening(small_service(model, tmp_path / "index")) as port:
        yield f"http://127.0.0.1:{port}"


def test_the_client_in_python_finds_the_image_itself(folder, address, capsys):
    code = block("py")
    assert ADDRESS in code
    assert len(code.splitlines()) <= 18
    names = {}
    exec(code.replace(ADDRESS, address), names)
    assert len(names["vector"]) == 16
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["100-0.jpg", "1.0000"]
    assert len(lines) == 3


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_client_in_curl_embeds_searches_adds_and_removes(folder, address):
    answers = []
    for line in block("bash").strip().splitlines():
        words = shlex.split(line.replace(ADDRESS, address))
        done = subprocess.run([words[0], "-sf", *words[1:]], capture_output=True, check=True)
        answers.append(json.loads(done.stdout))
    embedded, found, added, removed = answers
    assert len(embedded["data"][0]["embedding"]) == 16
    assert found["data"][0]["neighbours"][0]["id"] == "100-0.jpg"
    assert len(found["data"][0]["neighbours"]) == 3
    assert added == {"added": 1, "images": 21}
    assert removed == {"removed": 1, "images": 20}
