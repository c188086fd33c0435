"""Write src/lookalike/planning/backbone_facts.json and the tables of docs/backbones.md.

python docs/make_backbones.py            # measure every listed backbone: some minutes
python docs/make_backbones.py NAME ...   # these; the facts of the others are kept
python docs/make_backbones.py --page     # the tables alone, from the facts that are there
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import timm

from lookalike.commands.backbones import backbones
from lookalike.planning.backbone_facts import FACTS, IMAGE_SIZE, known_facts, measure_facts
from lookalike.planning.backbone_families import FAMILIES, TASKS

PAGE = Path(__file__).with_name("backbones.md")
BEGIN, END = "<!-- tables: docs/make_backbones.py -->\n", "<!-- end of tables -->"


def write_facts(names: list[str]) -> None:
    """Measure these backbones, or all."""
    known = dict(known_facts()) if names else {}
    listed = []
    for family in FAMILIES:
        for name in family.members:
            if name in names or name not in known:
                print(name, flush=True)  # noqa: T201
                known[name] = measure_facts(name, IMAGE_SIZE)
            listed.append(asdict(known[name]))
    content = {"timm": timm.__version__, "backbones": listed}
    FACTS.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def tables() -> str:
    """The list by family, and the evidence by task, as Markdown."""
    found = {entry.facts.name: entry for entry in backbones().entries}
    lines = [
        "| `model.backbone` | weights in timm | made at | million parameters | GMAC | training, GB "
        "| `model.pooling` of its own | licence |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for family in FAMILIES:
        for name in family.members:
            entry = found[name]
            facts = entry.facts
            lines.append(
                f"| `{name}` | `{facts.timm}` | {facts.native[0]} | {facts.parameters / 1e6:.1f} | "
                f"{facts.macs / 1e9:.2f} | {entry.training_bytes / 1e9:.1f} | `{entry.pooling}` | "
                f"{facts.licence or 'none stated'} |"
            )
    lines += ["", "| task | | family | what was read | where |", "| --- | --- | --- | --- | --- |"]
    for task in TASKS:
        claims = [
            (family.tasks[task].rank, family.name, family.tasks[task])
            for family in FAMILIES
            if task in family.tasks
        ]
        for rank, name, claim in sorted(claims, key=lambda each: each[:1]):
            lines.append(f"| {task} | {rank} | {name} | {claim.text} | {claim.source} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page with its tables as they should be."""
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + "\n" + tables() + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    if "--page" not in sys.argv:
        write_facts(sys.argv[1:])
        known_facts.cache_clear()
    PAGE.write_text(page(), "utf-8")
