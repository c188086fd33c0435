"""`lookalike serve` as a process, started as in the container, and its end in mid-request."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from dockerfile import command_of
from request_load import Clients

import lookalike

TOKEN = "0123456789abcdef-long"


@pytest.mark.slow
def test_an_export_is_served_and_a_stop_under_load_loses_no_request(model, shapes, files, tmp_path):
    exported = tmp_path / "small.onnx"
    lookalike.export(model, "onnx", output=exported, data=shapes / "val.txt")
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "index").mkdir()
    here = {
        "lookalike": [sys.executable, "-m", "lookalike"],
        "0.0.0.0": ["127.0.0.1"],
        "8080": ["0"],
        "/run/secrets/token": [str(tmp_path / "token")],
        "/model": [str(exported)],
        "/index": [str(tmp_path / "index")],
    }
    words = [*command_of("ENTRYPOINT"), *command_of("CMD")]
    command = [part for word in words for part in here.get(word, [word])]
    content = files[0].read_bytes()
    expected = lookalike.load(exported).embed(content)
    headers = {"content-type": "image/jpeg", "authorization": f"Bearer {TOKEN}"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        port = server.stdout.readline().strip().rpartition(":")[2]
        [_, *check] = (word.replace("8080", port) for word in command_of("HEALTHCHECK"))
        assert subprocess.run([sys.executable, *check]).returncode == 0
        clients = Clients(int(port), 16, "/v1/embeddings", content, headers)
        clients.start()
        while len(clients.answered) < 100 and not clients.lost and server.poll() is None:
            time.sleep(0.01)
        server.send_signal(signal.SIGTERM)
        clients.join()
        _, log = server.communicate(timeout=60)
    assert not clients.lost
    assert len(clients.answered) >= 100
    assert server.returncode == 0, log
    assert "SIGTERM: finishing the requests" in log
    assert "Traceback" not in log
    assert TOKEN not in log
    for text in clients.answered[::10]:
        vector = json.loads(text)["data"][0]["embedding"]
        np.testing.assert_allclose(vector, expected, atol=2e-6)
    assert subprocess.run([sys.executable, *check], stderr=subprocess.DEVNULL).returncode != 0
