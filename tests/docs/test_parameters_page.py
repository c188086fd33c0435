"""The pages against the program: settings, examples, tables."""

import ast
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import typer
import yaml

from lookalike.cli import app
from lookalike.config.config import FLAGS, Config, keys
from lookalike.config.sections import LOSS_ALIASES
from lookalike.jobs.resources import Resources
from lookalike.losses import MARGINS
from lookalike.model import BACKBONE_ALIASES, BACKBONES
from lookalike.workflow.workflow_graph import Workflow

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(*languages: str) -> list:
    """The fenced blocks of all pages in these languages, each with its place."""
    found = []
    for page in PAGES:
        content = page.read_text("utf-8")
        for block in BLOCK.finditer(content):
            line = content.count("\n", 0, block.start()) + 2
            if block[1] in languages:
                found.append(pytest.param(block[2], id=f"{page.relative_to(ROOT)}:{line}"))
    return found


def lookalike_commands(text: str) -> list[list[str]]:
    """The arguments of every `lookalike` in a shell block, also after `&&` and torchrun."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for command in line.split("&&"):
            words = shlex.split(command, comments=True)
            starts = [
                place
                for place, word in enumerate(words)
                if word.rsplit("/")[-1] == "lookalike" and (place == 0 or words[place - 1] == "-m")
            ]
            found += [words[start + 1 :] for start in starts]
    return found


def check(words: list[str]) -> None:
    """Fail unless command, flags and settings of `lookalike WORDS` exist."""
    group = typer.main.get_command(app)
    command, *rest = words
    assert command in group.commands, f"{command} is not one of {', '.join(group.commands)}"
    # make_context parses as the program does, without running anything.
    context = group.commands[command].make_context(command, list(rest))
    if command != "train":
        return
    request = context.params["request"] or []
    flags = {key: context.params[flag] for flag, key in FLAGS.items()}
    Config.load(None, [item for item in request if "=" in item], flags)
    for item in request:
        assert "=" in item or item.endswith(".yaml"), item


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_parameters", ROOT / "docs/make_parameters.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(page: str) -> list[list[str]]:
    """The rows of a page's tables whose first cell begins with code."""
    lines = (ROOT / "docs" / page).read_text("utf-8").splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_page_of_parameters_is_what_the_script_makes():
    written = (ROOT / "docs/parameters.md").read_text("utf-8")
    assert written == generator().page(), "run: python docs/make_parameters.py"


def test_the_component_table_names_every_parameter_of_the_face_tests():
    rows = generator().COMPONENT
    ours = {key for _, row, _ in rows for key in row}
    assert ours <= set(keys())
    source = (ROOT / "tests/config/test_component_table.py").read_text("utf-8")
    checked = {
        node.elts[1].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Tuple) and len(node.elts) == 4
        and isinstance(node.elts[1], ast.Constant) and node.elts[1].value in keys()
    }  # fmt: skip
    assert len(checked) > 20, "the rows of that test are not found any more"
    assert checked == ours


@pytest.mark.parametrize("text", blocks("python"))
def test_python_examples_compile(text):
    compile(text, "example", "exec")


@pytest.mark.parametrize("text", blocks("python"))
def test_python_examples_use_names_that_exist(text):
    import lookalike

    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "lookalike":
            assert {alias.name for alias in node.names} <= set(lookalike.__all__)
        if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
            continue
        if node.value.id == "lookalike":
            assert node.attr in lookalike.__all__, node.attr


@pytest.mark.parametrize("text", blocks("python"))
def test_python_examples_train_with_settings_that_exist(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "lookalike.train":
            given = {word.arg: ast.literal_eval(word.value) for word in node.keywords}
            given.pop("resume", None)
            Config().with_settings(given)


@pytest.mark.parametrize("text", blocks("bash"))
def test_commands_use_verbs_flags_and_settings_that_exist(text):
    for words in lookalike_commands(text):
        check(words)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_examples_are_requests_workflows_or_resources(text):
    tree = yaml.safe_load(text.replace("1e-2", "0.01"))
    if any(isinstance(part, dict) and "uses" in part for part in tree.values()):
        Workflow.parse(text, ROOT / "workflow.yaml")
    elif tree.keys() <= Resources.model_fields.keys():
        Resources.model_validate(tree)
    else:
        Config.build(tree)


FILES = ("model.safetensors", "model.onnx", "model.pt2", "train.txt", "train.csv", "train.rec")


def test_inline_settings_exist():
    """Every `section.key` in the text, alone or with a value, is a setting."""
    sections = "|".join(Config.model_fields)
    for page in PAGES:
        for code in re.findall(r"`([^`\n]+)`", re.sub(BLOCK, "", page.read_text("utf-8"))):
            found = re.fullmatch(rf"((?:{sections})\.[a-z_]+)(=(\S+))?", code)
            if found is None or code in FILES:
                continue
            assert found[1] in keys(), f"{page.name}: {code}"
            if found[3] and not found[3].isupper():  # capitals stand for a value
                Config.load(None, [code])


def test_the_table_of_losses_is_that_of_the_registry():
    rows = {
        row[0].strip("`"): row[1:] for row in table("losses.md") if row[0].strip("`") in MARGINS
    }
    assert rows.keys() == MARGINS.keys()
    for name, (component, _, unit, margin, scale, norms) in rows.items():
        kind = MARGINS[name]
        assert component == "none" or LOSS_ALIASES[component] == name
        assert (unit, float(margin), float(scale)) == (
            kind.unit, kind.margin, kind.scale,
        )  # fmt: skip
        assert ("|e\\|" in norms, "|w\\|" in norms) == (kind.embedding_norm, kind.weight_norm)


def test_the_page_of_the_model_names_all_backbones():
    text = (ROOT / "docs/model.md").read_text("utf-8")
    assert all(f"`{name}`" in text for name in BACKBONES)
    assert all(
        f"`{name}`" in text or name in ("resnet_34", "resnet_50") for name in BACKBONE_ALIASES
    )


def test_the_picture_of_the_architecture_is_the_contract():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    layers = contract["tool"]["importlinter"]["contracts"][0]["layers"]
    picture = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("```text\n")[1].split("```")[0]
    drawn = [re.split(r"\s{2,}", line)[0] for line in picture.splitlines()]
    assert drawn == [layer.replace(" : ", ", ") for layer in layers]


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_test_command_stands_between_its_markers():
    text = (ROOT / "README.md").read_text("utf-8")
    inside = text.split("<!-- test command -->\n")[1].split("<!-- end -->")[0]
    [(language, command)] = BLOCK.findall(inside)
    assert language == "bash"
    assert command.count("\n") == 1
    assert command.strip().split(" && ")[-1] == ".venv/bin/python -m pytest"


@pytest.mark.parametrize(
    "line",
    [
        "lookalike trian --train a.txt",
        "lookalike train --trian a.txt",
        "lookalike train --train a.txt optim.lrr=1",
        "lookalike train --train a.txt optim.lr=fast",
        "x && .venv/bin/lookalike embed runs/a photos/",
        "torchrun --nnodes=2 -m lookalike train --loss arkface",
    ],
)
def test_the_check_of_commands_finds_mistakes(line):
    [words] = lookalike_commands(line)
    with pytest.raises(Exception, match=r"trian|lrr|fast|Missing.*output|arkface"):
        check(words)
