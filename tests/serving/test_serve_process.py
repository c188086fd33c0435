"""`lookalike serve` as a process: an exported model, and its end in the midst of requests."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from request_load import Clients

import lookalike


@pytest.fixture(scope="module")
def exported(model):
    """An ONNX file of the small model."""
    return lookalike.export(model, "onnx", output=model.parent / "small.onnx").path


def test_an_export_is_served_and_a_stop_under_load_loses_no_request(exported, files):
    content = files[0].read_bytes()
    expected = lookalike.load(exported).embed(content)
    command = [sys.executable, "-m", "lookalike", "serve", str(exported), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        port = int(server.stdout.readline().rpartition(":")[2])
        clients = Clients(port, 16, "/v1/embeddings", content, "image/jpeg")
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
    for text in clients.answered[::10]:
        vector = json.loads(text)["data"][0]["embedding"]
        np.testing.assert_allclose(vector, expected, atol=2e-6)
