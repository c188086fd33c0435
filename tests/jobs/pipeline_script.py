"""Compiles a pipeline with the training component, and runs it by kfp's SubprocessRunner.

Arguments: a folder for its results, a configuration, and the lists for training and validation.
"""

import sys
from pathlib import Path

from kfp import compiler, dsl, local

import lookalike

train = lookalike.training_component("python-lookalike:0.1")


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def find_list(file: str, found: dsl.Output[dsl.Dataset]):
    """The list, with whole paths of its images."""
    from pathlib import Path

    folder = Path(file).parent
    lines = [f"{folder}/{line}" for line in Path(file).read_text().splitlines(True)]
    Path(found.path).write_text("".join(lines))


@dsl.pipeline(name="shoes")
def shoes(config: str, train_list: str, val_list: str):
    train(
        config=config,
        settings=["data.train=/nowhere/train.txt"],
        train=find_list(file=train_list).output,
        val=find_list(file=val_list).output,
    )


if __name__ == "__main__":
    folder, config, train_list, val_list = sys.argv[1:]
    compiler.Compiler().compile(shoes, f"{folder}/pipeline.yaml")
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=f"{folder}/root")
    shoes(config=Path(config).read_text(), train_list=train_list, val_list=val_list)
