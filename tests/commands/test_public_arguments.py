"""Every public argument that takes several takes one too, and paths may be paths or runs."""

import inspect
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lookalike
from lookalike.errors import LookalikeError
from lookalike.run import Run

RUN = {"device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory, model_weights):
    """The folder of a run, without its training."""
    folder = tmp_path_factory.mktemp("public") / "run"
    (folder / "model").mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"data:\n  train: {shapes / 'train.txt'}\n  val: {shapes / 'val.txt'}\n"
        "model:\n  backbone: test_resnet\n  image_size: 32\n  embedding_dim: 16\n"
        "  pretrained: false\n"
    )
    model_weights.save(folder / "model")
    return Run(folder)


@pytest.fixture(scope="module")
def model_weights():
    return lookalike.Embedder.create(
        "test_resnet", pretrained=False, image_size=32, embedding_dim=16
    )


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def index(tmp_path, run):
    made = lookalike.Index.create(tmp_path / "index", embedder=lookalike.load(run, device="cpu"))
    made.add(vectors=np.eye(4, 16, dtype=np.float32), ids=list("abcd"))
    return made


SEVERAL = {
    # argument: (call with the value, one value)
    "search.queries": lambda c, v: lookalike.search(c["run"], v, index=c["index"].place, **RUN),
    "search.gallery": lambda c, v: lookalike.search(c["run"], c["image"], gallery=v, **RUN),
    "search.add": lambda c, v: lookalike.search(c["run"], index=c["index"].place, add=v, **RUN),
    "search.remove": lambda c, v: lookalike.search(c["run"], index=c["index"].place, remove=v),
    "embed.images": lambda c, v: lookalike.embed(c["run"], v, c["out"], **RUN),
    "compare.models": lambda c, v: lookalike.compare(v, c["list"], **RUN),
    "compare.embeddings": lambda c, v: lookalike.compare(
        embeddings=v, labels=c["labels"], device="cpu"
    ),
    "backbones.names": lambda c, v: lookalike.backbones(v),
    "compare.recall": lambda c, v: lookalike.compare(c["run"], c["list"], recall=v, **RUN),
    "evaluate.recall": lambda c, v: lookalike.evaluate(c["run"], c["list"], recall=v, **RUN),
    "evaluate.precision": lambda c, v: lookalike.evaluate(c["run"], c["list"], precision=v, **RUN),
    "compare.precision": lambda c, v: lookalike.compare(c["run"], c["list"], precision=v, **RUN),
    "improve.variants": lambda c, v: lookalike.improve(c["run"], c["list"], variants=v, **RUN),
    "Index.build.images": lambda c, v: lookalike.Index.build(c["embedder"], v, c["new"]),
    "Index.add.images": lambda c, v: c["index"].add(v),
    "Index.add.ids": lambda c, v: c["index"].add(vectors=np.ones((1, 16)), ids=v),
    "Index.add.labels": lambda c, v: c["index"].add(vectors=np.ones(16), ids="e", labels=v),
    "Index.add.versions": lambda c, v: c["index"].add(vectors=np.ones(16), ids="e", versions=v),
    "Index.remove.ids": lambda c, v: c["index"].remove(v),
    "Index.records.ids": lambda c, v: c["index"].records(v),
    "Index.vectors.ids": lambda c, v: c["index"].vectors(v),
    "Index.search.queries": lambda c, v: c["index"].search(v),
    "Embedder.embed.images": lambda c, v: c["embedder"].embed(v),
    "Embedder.encode.images": lambda c, v: c["embedder"].encode(v),
}
ONE = {
    "backbones.names": "resnet18",
    "compare.models": "run", "compare.embeddings": "npy", "compare.recall": 1,
    "evaluate.recall": 1, "evaluate.precision": 2, "compare.precision": 2,
    "improve.variants": "flip", "Index.add.ids": "e", "Index.add.labels": "shoe",
    "Index.add.versions": 3, "Index.remove.ids": "a", "Index.records.ids": "a",
    "Index.vectors.ids": "a", "search.remove": "a",
}  # fmt: skip


@pytest.fixture
def context(run, index, shapes, tmp_path, model_weights):
    image = shapes / "images/100-0.jpg"
    embedder = lookalike.load(run, device="cpu")
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32))
    (tmp_path / "l.txt").write_text("".join(f"{row % 5}\n" for row in range(20)))
    return {
        "run": run, "index": index, "image": image, "list": shapes / "val.txt",
        "out": tmp_path / "out.npy", "npy": tmp_path / "v.npy", "labels": tmp_path / "l.txt",
        "embedder": embedder, "new": tmp_path / "new",
    }  # fmt: skip


@pytest.mark.parametrize("argument", SEVERAL)
def test_one_is_taken_as_a_list_of_one(argument, context):
    value = ONE.get(argument, "image")
    value = context.get(value, value) if isinstance(value, str) else value
    call = SEVERAL[argument]
    before = len(context["index"])
    one = call(context, value)
    after = len(lookalike.Index.open(context["index"].place))
    if argument in ("Index.remove.ids", "search.remove"):
        assert (before, after) == (4, 3)
        return
    if argument.endswith("embed.images") and argument[0] == "E":
        assert one.shape == (16,)
    if argument == "Index.build.images":
        assert one.ids() == [str(value)]
        return
    several = call(context, [value])
    if argument in ("compare.models", "improve.variants"):
        assert len(one) if isinstance(one, list) else len(one.evaluations)
    assert type(one) is type(several)


def test_every_argument_that_takes_several_is_tried():
    """Those whose type is a sequence, by the signatures of all that is public."""
    found = set()
    functions = {name: getattr(lookalike, name) for name in lookalike.__all__}
    for name, one in list(functions.items()):
        if inspect.isclass(one) and name in ("Index", "Embedder"):
            members = inspect.getmembers(
                one, lambda m: inspect.isfunction(m) or inspect.ismethod(m)
            )
            functions |= {
                f"{name}.{member}": method
                for member, method in members
                if not member.startswith("_") and method.__module__.startswith("lookalike")
            }
    for name, one in functions.items():
        if inspect.isclass(one):
            continue
        arguments = {a: str(p.annotation) for a, p in inspect.signature(one).parameters.items()}
        for packed in [text for text in arguments.values() if text.startswith("Unpack[")]:
            keywords = one.__globals__[packed[len("Unpack[") : -1]]
            arguments |= {a: kind.__forward_arg__ for a, kind in keywords.__annotations__.items()}
        for argument, kind in arguments.items():
            words = ("Iterable", "Sequence", "list[", "Texts", "Labels", "Images",
                     "Places")  # fmt: skip
            if any(word in kind for word in words):
                found.add(f"{name}.{argument}")
    inner = {"Index.build.ids",
             "Index.build.labels"}  # fmt: skip
    # tests/commands/test_tune.py tries the last.
    assert found - inner <= set(SEVERAL) | {"Index.search.queries", "tune.over"}
    assert len(found) > 15


WRONG = [None, 5, b"bytes", "", [None], [5], 1.5]


@pytest.mark.parametrize("argument", SEVERAL)
def test_values_of_no_accepted_type_are_refused_in_one_line(argument, context):
    for value in WRONG:
        may_be = {
            "search.queries": (), "search.gallery": (), "search.add": (), "search.remove": (),
            "Index.add.labels": (None, "", [None]), "Index.add.versions": (None, 5, [5]),
            "improve.variants": (None,), "evaluate.recall": (5, [5]), "compare.recall": (5, [5]),
            "evaluate.precision": (5, [5]), "compare.precision": (5, [5]),
        }.get(argument, ())  # fmt: skip
        if any(type(value) is type(fine) and value == fine for fine in may_be):
            continue
        with pytest.raises(LookalikeError) as error:
            SEVERAL[argument](context, value)
        assert "\n" not in str(error.value).strip()
    assert sorted(lookalike.Index.open(context["index"].place).ids())[:4] == list("abcd")


PLACES = {
    "load": lambda c, p: lookalike.load(p(c["run"]), device="cpu"),
    "embed": lambda c, p: lookalike.embed(
        p(c["run"]), p(c["image"]), p(c["out"]), cache=p(c["new"]), **RUN
    ),
    "search": lambda c, p: lookalike.search(
        p(c["run"]), p(c["image"]), gallery=p(c["image"]), index=p(c["new"]),
        html=p(c["out"].with_suffix(".html")), **RUN,
    ),
    "evaluate": lambda c, p: lookalike.evaluate(p(c["run"]), p(c["list"]), **RUN),
    "compare": lambda c, p: lookalike.compare(
        [p(c["run"])], p(c["list"]), output=p(c["new"]), **RUN
    ),
    "improve": lambda c, p: lookalike.improve(p(c["run"]), p(c["list"]), variants="flip", **RUN),
    "export": lambda c, p: lookalike.export(
        p(c["run"]), "safetensors", output=p(c["new"]), data=p(c["list"]), threads=1
    ),
    "doctor": lambda c, p: lookalike.doctor(train=p(c["list"]), output=p(c["new"]), images=False),
    "Index": lambda c, p: lookalike.Index.open(p(c["index"].place), c["embedder"]),
    "Run.open": lambda c, p: Run.open(p(c["run"])),
    "Calibration.load": lambda c, p: lookalike.Calibration.load(p(c["run"])),
}  # fmt: skip


class Elsewhere:
    """A path of another library."""

    def __init__(self, path: os.PathLike[str]) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return os.fspath(self.path)


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("kind", [os.fspath, Path, Elsewhere, lambda place: place])
def test_paths_may_be_texts_paths_and_runs(name, kind, context, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    PLACES[name](context, kind)
    assert not list(here.iterdir()), "written elsewhere than asked for"


def test_the_path_of_a_run_is_absolute(run, monkeypatch):
    monkeypatch.chdir(run.path.parent)
    relative = Run.open("run")
    assert relative.path == run.path
    assert relative.path.is_absolute()
    assert str(relative) == os.fspath(relative) == str(run.path)
    monkeypatch.chdir("/")
    assert lookalike.load(relative, device="cpu").embed(Image.new("RGB", (9, 9))).shape == (16,)


class _Long:
    def __repr__(self):
        return "layer\n" * 1000


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: lookalike.embed("run", "a.jpg", "o.npy", workers="2"), "workers='2' must be an"),
        (lambda: lookalike.embed("run", "a.jpg", "o.npy", workers=True), "workers=True must be an"),
        (lambda: lookalike.embed("run", "a.jpg", "o.npy", threads=1.5), "threads=1.5 must be an"),
        (lambda: lookalike.search("run", "a.jpg", gallery="b", threads=-1), "threads=-1 must be"),
        (lambda: lookalike.evaluate("run", "a.txt", threads="x"), "threads='x' must be an integer"),
        (lambda: lookalike.export("run", threads=None), "threads=None must be an integer"),
        (lambda: lookalike.export("run", max_drift="1"), "max_drift='1' must be a number from 0"),
        (lambda: lookalike.export("run", max_recall_change=math.nan), "must be a number from 0 on"),
        (lambda: lookalike.evaluate("run", "a.txt", split=3), "split=3 must be a text or None"),
        (lambda: lookalike.compare("run", "a.txt", seed="x"), "seed='x' must be an integer"),
        (lambda: lookalike.compare("run", "a.txt", seed=True), "seed=True must be an integer"),
        (lambda: lookalike.compare("run", "a.txt", full="no"), "full='no' must be True or False"),
        (lambda: lookalike.compare("run", "a.txt", hierarchy=3), "hierarchy=3 must be a text or"),
        (lambda: lookalike.compare("run", "a.txt", cache=3), "cache=3 must be a text or a path or"),
        (
            lambda: lookalike.search("run", index="i", remove="*", remove_all="no"),
            "remove_all='no' must be True or False",
        ),
        (lambda: lookalike.serve("run", port="80"), "port='80' .--port. must be from 0 to"),
        (lambda: lookalike.serve("run", seconds="9"), "seconds='9' must be a number above 0"),
        (lambda: lookalike.serve("run", drain_seconds=-1), "drain_seconds=-1 must be a number"),
        (lambda: lookalike.serve("run", allowed_hosts=["a", 3]), "allowed_hosts: 3 is not a text"),
        (lambda: lookalike.improve("run", "a.txt", threads=-2), "threads=-2 must be an integer"),
        (lambda: lookalike.embed("run", {"a.jpg": "b.jpg"}, "o.npy"), "images={.*several"),
        (lambda: lookalike.search(_Long(), "a.jpg", gallery="b"), "^model=_Long: give one path"),
        (
            lambda: lookalike.plan("config.yaml"),
            "config is of type str; give lookalike.Config.load",
        ),
        (lambda: lookalike.train("config.yaml"), "config is of type str"),
        (lambda: lookalike.doctor("config.yaml"), "config is of type str"),
        (lambda: Run.create(""), "run.output is empty"),
        (lambda: lookalike.export("run", format=["onnx"]), r"format=\['onnx'\] is not one of"),
        (lambda: lookalike.push_to_hub("run", None), "repository=None is not OWNER/NAME"),
        (lambda: lookalike.Index.create(None, dim=8), "path=None: give one path"),
        (lambda: lookalike.Index.create("", dim=8), "path='': give one path"),
        (lambda: lookalike.Index.create("new", embedder="run"), "embedder is of type str; give"),
    ],
)
def test_values_of_a_wrong_type_are_refused_in_one_line(tmp_path, monkeypatch, call, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LookalikeError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: lookalike.embed("run", "a.jpg", "o.npy", thread=2), "embed.*'thread'.*'threads'"),
        (lambda: lookalike.search("run", "a.jpg", kinds="exact"), "search.*'kinds'.*'kind'"),
        (lambda: lookalike.search("run", "a.jpg", ad="b"), "search.*'ad'.*'add'"),
        (lambda: lookalike.evaluate("run", "a.txt", devise="cpu"), "evaluate.*'devise'.*'device'"),
        (lambda: lookalike.compare("run", "a.txt", recal=1), "compare.*'recal'.*'recall'"),
        (lambda: lookalike.compare("run", "a.txt", ks=1), r"'ks'; see help\(lookalike.compare"),
        (lambda: lookalike.improve("run", "a.txt", variant="flip"), "improve.*'variants'"),
        (lambda: lookalike.export("run", max_drif=1), "export.*'max_drif'.*'max_drift'"),
        (lambda: lookalike.serve("run", max_imagez=3), "serve.*'max_imagez'.*'max_images'"),
        (lambda: lookalike.serve("run", prot=3), "serve.*'prot'.*'port'"),
    ],
)
def test_unknown_keywords_are_told_with_the_function_and_the_closest(call, said):
    with pytest.raises(TypeError, match=said):
        call()


def test_a_wrong_embedder_of_an_index_is_refused(index):
    with pytest.raises(LookalikeError, match=r"embedder is of type str; give what lookalike\.load"):
        lookalike.Index.open(index.place, "runs/shoes")
