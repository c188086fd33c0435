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
    "JobState",
    "JobStatus",
    "LookalikeError",
    "Run",
    "Scores",
    "backbones",
    "compare",
    "doctor",
    "embed",
    "evaluate",
    "export",
    "follow_job",
    "improve",
    "job_status",
    "list_jobs",
    "load",
    "plan",
    "push_to_hub",
    "quickstart",
    "report",
    "run_workflow",
    "search",
    "serve",
    "stop_job",
    "submit",
    "train",
    "training_component",
    "tune",
]

if TYPE_CHECKING:
    from lookalike.cli.submitted_words import submit
    from lookalike.commands.backbones import backbones
    from lookalike.commands.doctor import doctor
    from lookalike.commands.embed import embed
    from lookalike.commands.evaluate import compare, evaluate
    from lookalike.commands.export import export
    from lookalike.commands.improve import improve
    from lookalike.commands.models import load
    from lookalike.commands.plan import plan
    from lookalike.commands.push_to_hub import push_to_hub
    from lookalike.commands.quickstart import quickstart
    from lookalike.commands.report import report
    from lookalike.commands.search import search
    from lookalike.commands.serve import serve
    from lookalike.commands.train import train
    from lookalike.commands.tune import tune
    from lookalike.config.config import Config
    from lookalike.errors import LookalikeError
    from lookalike.evaluation.result import Comparison
    from lookalike.index.index import Index
    from lookalike.jobs.engine import JobState, JobStatus
    from lookalike.jobs.kubeflow_component import training_component
    from lookalike.jobs.submit import follow_job, job_status, list_jobs, stop_job
    from lookalike.metrics.calibration import Calibration
    from lookalike.metrics.scores import Scores
    from lookalike.model.embedder import Embedder
    from lookalike.run import Run
    from lookalike.workflow.run_workflow import run_workflow

_HOMES = {
    "Calibration": "lookalike.metrics.calibration",
    "Comparison": "lookalike.evaluation.result",
    "Config": "lookalike.config.config",
    "Embedder": "lookalike.model.embedder",
    "Index": "lookalike.index.index",
    "JobState": "lookalike.jobs.engine",
    "JobStatus": "lookalike.jobs.engine",
    "LookalikeError": "lookalike.errors",
    "Run": "lookalike.run",
    "Scores": "lookalike.metrics.scores",
    "backbones": "lookalike.commands.backbones",
    "compare": "lookalike.commands.evaluate",
    "doctor": "lookalike.commands.doctor",
    "embed": "lookalike.commands.embed",
    "evaluate": "lookalike.commands.evaluate",
    "export": "lookalike.commands.export",
    "follow_job": "lookalike.jobs.submit",
    "improve": "lookalike.commands.improve",
    "job_status": "lookalike.jobs.submit",
    "list_jobs": "lookalike.jobs.submit",
    "load": "lookalike.commands.models",
    "plan": "lookalike.commands.plan",
    "push_to_hub": "lookalike.commands.push_to_hub",
    "quickstart": "lookalike.commands.quickstart",
    "report": "lookalike.commands.report",
    "run_workflow": "lookalike.workflow.run_workflow",
    "search": "lookalike.commands.search",
    "serve": "lookalike.commands.serve",
    "stop_job": "lookalike.jobs.submit",
    "submit": "lookalike.cli.submitted_words",
    "train": "lookalike.commands.train",
    "training_component": "lookalike.jobs.kubeflow_component",
    "tune": "lookalike.commands.tune",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lookalike' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
