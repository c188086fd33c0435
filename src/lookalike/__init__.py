"""Train image-embedding models from a list of labelled images, and put them to work.

    import lookalike

    run = lookalike.train(train="train.txt", val="val.txt", output="runs/shoes", loss="arcface")
    embedder = lookalike.load("runs/shoes")
    vectors = embedder.embed(["a.jpg", "b.jpg"])   # (2, D) float32, unit length

Importing this package does nothing: the names below are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Calibration",
    "Comparison",
    "Config",
    "Embedder",
    "Index",
    "LookalikeError",
    "Run",
    "Scores",
    "compare",
    "doctor",
    "embed",
    "evaluate",
    "export",
    "improve",
    "load",
    "plan",
    "push_to_hub",
    "quickstart",
    "report",
    "search",
    "train",
]

if TYPE_CHECKING:
    from lookalike.config import Config
    from lookalike.errors import LookalikeError
    from lookalike.evaluation.result import Comparison
    from lookalike.gallery.index import Index
    from lookalike.model.embedder import Embedder
    from lookalike.retrieval.calibration import Calibration
    from lookalike.retrieval.metrics import Scores
    from lookalike.run import Run
    from lookalike.verbs.doctor import doctor
    from lookalike.verbs.embed import embed, load
    from lookalike.verbs.evaluate import compare, evaluate
    from lookalike.verbs.export import export
    from lookalike.verbs.improve import improve
    from lookalike.verbs.plan import plan
    from lookalike.verbs.push_to_hub import push_to_hub
    from lookalike.verbs.quickstart import quickstart
    from lookalike.verbs.report import report
    from lookalike.verbs.search import search
    from lookalike.verbs.train import train

_HOMES = {
    "Calibration": "lookalike.retrieval.calibration",
    "Comparison": "lookalike.evaluation.result",
    "Config": "lookalike.config",
    "Embedder": "lookalike.model.embedder",
    "Index": "lookalike.gallery.index",
    "LookalikeError": "lookalike.errors",
    "Run": "lookalike.run",
    "Scores": "lookalike.retrieval.metrics",
    "compare": "lookalike.verbs.evaluate",
    "doctor": "lookalike.verbs.doctor",
    "embed": "lookalike.verbs.embed",
    "evaluate": "lookalike.verbs.evaluate",
    "export": "lookalike.verbs.export",
    "improve": "lookalike.verbs.improve",
    "load": "lookalike.verbs.embed",
    "plan": "lookalike.verbs.plan",
    "push_to_hub": "lookalike.verbs.push_to_hub",
    "quickstart": "lookalike.verbs.quickstart",
    "report": "lookalike.verbs.report",
    "search": "lookalike.verbs.search",
    "train": "lookalike.verbs.train",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lookalike' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
