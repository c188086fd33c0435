"""The instructions of the Dockerfile."""

import json
import re
from pathlib import Path

FILE = Path(__file__).parents[2] / "docker" / "Dockerfile"


def instructions():
    """Pairs of a word and the rest of its line, in order."""
    text = FILE.read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines]


def command_of(word):
    """The words of ENTRYPOINT, CMD or HEALTHCHECK."""
    return json.loads(re.search(r"\[.*\]", dict(instructions())[word])[0])
