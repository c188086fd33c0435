"""Writes docs/parameters.md from the settings, which are documented in lookalike.config alone.

python docs/make_parameters.py            write the page
python docs/make_parameters.py --check    exit with 1 if the page is out of date
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from lookalike.config.config import CHOSEN_BY_RECIPE, FLAGS, Config, keys, popular_keys

PAGE = Path(__file__).with_name("parameters.md")

# The component's parameter -> (our keys, remarks), in the order of the component's page.
COMPONENT: list[tuple[str, list[str], str]] = [
    (
        "Metric learning model type",
        ["head.parallel"],
        "`Data-parallel metric learning` and `Model-parallel metric learning` are accepted",
    ),
    ("OSS directory for training output", ["run.output"], "required"),
    ("Training annotation file path", ["data.train"], "required; the flag beats the file"),
    (
        "Validation annotation file path",
        ["data.val"],
        "the flag beats the file; without one, `data.val_fraction` holds out whole classes",
    ),
    ("File of class name list", ["data.classes"], "names, or a file with one name a line"),
    (
        "Data source format",
        ["data.format"],
        "`ClsSourceImageList` and `ClsSourceItag` are accepted",
    ),
    (
        "Path of the pre-trained model",
        ["model.pretrained"],
        "`true`, `false`, or a `.pth` or `.safetensors` file",
    ),
    (
        "Metric learning backbone",
        ["model.backbone"],
        "the component's thirteen, its spellings (`resnet_50`, `swin_transformer_tiny`), or any "
        "timm name",
    ),
    ("Image resize size", ["model.image_size"], "any size for every backbone"),
    ("Backbone output feature dimension", ["model.backbone_dim"], "inferred; checked when given"),
    ("Feature output dimension", ["model.embedding_dim"], ""),
    ("Number of training classes", ["data.num_classes"], "inferred; checked when given"),
    (
        "Loss function",
        ["loss.name"],
        "the component's names are accepted; `Model-parallel AMSoftmax` and `Model-parallel "
        "Softmax` mean that margin with `head.parallel=model`",
    ),
    (
        "Loss function scale and margin",
        ["loss.scale", "loss.margin"],
        "the loss's recommended values; see [Losses](losses.md)",
    ),
    ("Loss function weight", ["loss.weight"], "beside `loss.classification_weight`"),
    ("Optimizer", ["optim.name"], "`SGD` and `AdamW` are accepted"),
    ("Initial learning rate", ["optim.lr"], ""),
    ("Training batch_size", ["train.batch_size"], "over all workers together"),
    ("Total training epochs", ["train.epochs"], "`train.max_steps` may end it sooner"),
    ("Checkpoint saving frequency", ["train.checkpoint_every"], "in epochs"),
    ("Training data read threads", ["data.threads"], "for each worker"),
    ("Enable half-precision", ["train.precision"], "`auto`, `fp32`, `bf16` or `fp16`"),
    (
        "Workers",
        ["run.workers"],
        "processes on this machine; torchrun starts the same program on several",
    ),
]


def page() -> str:
    """The text of docs/parameters.md."""
    known = keys()
    lines = [
        "<!-- Written by docs/make_parameters.py; change lookalike/config/sections.py instead. -->",
        "",
        "# Parameters",
        "",
        "A setting is `key=value` on the command line, `section:` and `key: value` in a YAML file,"
        " and `section__key=value` in Python. Eight have a flag of their own."
        " `lookalike train --settings` prints them all.",
        "",
        "Where the default is *recipe*, the [recipe](recipe.md) chooses the value from the data,"
        " the network and the machine, if a request does not give it; beside it stands the default"
        " with `--recipe component`. `-` means: none, inferred, or the recommended value.",
        "",
        "## The twenty that matter most",
        "",
        *_table(popular_keys()),
        "",
        "## The component's parameters",
        "",
        "| the component's parameter | key | default | |",
        "| --- | --- | --- | --- |",
    ]
    for name, ours, remark in COMPONENT:
        shown = ", ".join(_code(key) for key in ours)
        default = _default(ours[0], known[ours[0]][1])
        lines.append(f"| {name} | {shown} | {default} | {remark} |")
    lines += ["", "## All settings", ""]
    for section, outer in Config.model_fields.items():
        assert isinstance(outer.annotation, type)
        lines += [f"### {section}", "", (outer.annotation.__doc__ or "").strip(), ""]
        lines += [*_table(key for key in known if key.startswith(f"{section}.")), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(chosen: Iterable[str]) -> Iterator[str]:
    known = keys()
    yield from ("| key | type | default | |", "| --- | --- | --- | --- |")
    for key in chosen:
        kind, default, text = known[key]
        cell = text.replace("|", "\\|")
        yield f"| {_code(key)} | {kind} | {_default(key, default)} | {cell} |"


def _code(key: str) -> str:
    flags = {key: f"--{flag}" for flag, key in FLAGS.items()}
    return f"`{key}` (`{flags[key]}`)" if key in flags else f"`{key}`"


def _default(key: str, text: str) -> str:
    shown = text if text == "-" else f"`{text}`"
    return f"*recipe*, {shown}" if key in CHOSEN_BY_RECIPE else shown


def main() -> int:
    """Write or check the page; the exit code."""
    if "--check" in sys.argv[1:]:
        return int(not PAGE.exists() or PAGE.read_text("utf-8") != page())
    PAGE.write_text(page(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
