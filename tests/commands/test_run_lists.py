"""Lists of a run: read with its columns and image folder by all commands that measure a model."""

import csv
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import lookalike
import program
from lookalike.commands.report import report
from lookalike.commands.search import search
from lookalike.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    """A run on tables of another folder than the images', whose label column is not `label`.

    The column `label` names two classes; the run's own, `shape`, the real ones.
    """
    folder = tmp_path_factory.mktemp("lists")
    for name in ("train", "val"):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "label", "shape"])
            for number, line in enumerate((shapes / f"{name}.txt").read_text().splitlines()):
                path, shape = line.rsplit(" ", 1)
                rows.writerow([path, number % 2, f"shape {shape}"])
    run = lookalike.train(
        train=folder / "train.csv", val=folder / "val.csv", output=folder / "run",
        label_column="shape", image_root=str(shapes), backbone="test_resnet", pretrained=False,
        image_size=32, embedding_dim=16, epochs=1, batch_size=16, threads=0, device="cpu",
        report=False,
    )  # fmt: skip
    return folder, run


def map_at_r(run):
    """MAP@R of the model that was kept: the best."""
    return max(scores["map_at_r"] for scores in run.scores())


def test_a_list_of_the_run_is_measured_as_in_training(trained):
    folder, run = trained
    scores = lookalike.evaluate(run.path, folder / "val.csv")
    assert scores.map_at_r == pytest.approx(map_at_r(run))
    assert scores.num_queries == run.scores()[-1]["queries"]
    halves = lookalike.evaluate(run.path, query=folder / "val.csv", gallery=folder / "val.csv")
    assert halves.map_at_r == pytest.approx(scores.map_at_r)


def test_improve_export_and_report_read_it_alike(trained, shapes, tmp_path):
    folder, run = trained
    improved = lookalike.improve(run.path, folder / "val.csv", variants=["flip"])
    same = lookalike.improve(run.path, shapes / "val.txt", variants=["flip"])
    assert improved[0].scores == same[0].scores
    lookalike.export(run.path, format="safetensors", data=folder / "val.csv", output=tmp_path / "x")
    report(run.path, data=folder / "val.csv", output=tmp_path / "page.html")
    assert "shape 1" in (tmp_path / "page.html").read_text()


@pytest.fixture
def other(trained, shapes, tmp_path):
    """The validation list of the run as a table whose columns only a person can tell apart."""
    rows = ["small,large,first,second"]
    for number, line in enumerate((shapes / "val.txt").read_text().splitlines()):
        path, label = line.rsplit(" ", 1)
        rows.append(f"none-{number}.jpg,{shapes}/{path},{number % 2},{label}")
    place = tmp_path / "other.csv"
    place.write_text("\n".join(rows) + "\n")
    return place


COLUMNS = {"path_column": "large", "label_column": "second"}


def test_columns_of_another_list_are_named(trained, other, tmp_path):
    folder, run = trained
    expected = pytest.approx(map_at_r(run))
    with pytest.raises(DataError, match=r"may be 'small', 'large'; set .* \(--path-column\) to"):
        lookalike.evaluate(run.path, other)
    with pytest.raises(DataError, match=r"no column of labels .* \(--label-column\) to"):
        lookalike.evaluate(run.path, other, path_column="large")
    assert lookalike.evaluate(run.path, other, **COLUMNS).map_at_r == expected
    both = lookalike.evaluate(run.path, query=other, gallery=other, **COLUMNS)
    assert both.map_at_r == expected
    improved = lookalike.improve(run.path, other, variants=["whiten=8"], fit=other, **COLUMNS)
    own = lookalike.improve(run.path, folder / "val.csv", variants=["flip"])
    assert improved[0].scores == own[0].scores
    lookalike.export(run.path, "safetensors", data=other, output=tmp_path / "x", **COLUMNS)
    lookalike.report(run.path, data=other, output=tmp_path / "page.html", **COLUMNS)
    assert ">104<" in (tmp_path / "page.html").read_text()


def test_columns_of_tables_to_embed_and_to_search(trained, other, tmp_path):
    _, run = trained
    vectors = tmp_path / "vectors.parquet"
    assert lookalike.embed(run.path, other, vectors, **COLUMNS) == 20
    assert pq.read_table(vectors)["label"].to_pylist()[::4] == ["100", "101", "102", "103", "104"]
    found = search(run.path, other, gallery=other, index=tmp_path / "index", k=1, **COLUMNS)
    assert len(found.answers) == 20
    assert {one.label for answer in found.answers for one in answer.neighbours} <= {
        "100", "101", "102", "103", "104",
    }  # fmt: skip


def test_named_columns_take_the_place_of_those_of_the_run(trained):
    folder, run = trained
    scores = lookalike.evaluate(run.path, folder / "val.csv", label_column="label")
    assert scores.map_at_r != run.scores()[-1]["map_at_r"]
    # Whitening is fitted on the training list by the run's own columns.
    plain, halves = (
        lookalike.improve(run.path, folder / "val.csv", variants=["whiten=8"], **named)[0]
        for named in ({}, {"label_column": "label", "fit": folder / "train.csv"})
    )
    assert halves.scores.map_at_r != plain.scores.map_at_r


def test_the_image_folder_of_another_list_is_named(trained, shapes, tmp_path):
    folder, run = trained
    other = tmp_path / "other.txt"
    other.write_text((shapes / "val.txt").read_text())
    root = {"image_root": str(shapes)}
    with pytest.raises(DataError, match=r"--image-root"):
        lookalike.evaluate(run.path, other)
    expected = pytest.approx(map_at_r(run))
    assert lookalike.evaluate(run.path, other, **root).map_at_r == expected
    improved = lookalike.improve(run.path, other, variants=["whiten=8"], fit=other, **root)
    own = lookalike.improve(run.path, folder / "val.csv", variants=["flip"])
    assert improved[0].scores == own[0].scores
    lookalike.export(run.path, "safetensors", data=other, output=tmp_path / "x", **root)
    lookalike.report(run.path, data=other, output=tmp_path / "page.html", **root)
    assert ">104<" in (tmp_path / "page.html").read_text()
    assert lookalike.embed(run.path, other, tmp_path / "vectors.parquet", **root) == 20
    found = search(run.path, other, gallery=other, index=tmp_path / "index", k=1, **root)
    assert len(found.answers) == 20


def test_a_list_without_a_readable_image_is_one_line_with_a_hint(trained, tmp_path, caplog):
    _, run = trained
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"{name}0.jpg 1\n{name}1.jpg 1\n{name}2.jpg 2\n")
    hint = r"Relative paths start at the list's folder, or at image_root \(--image-root\)$"
    one = (
        rf"a\.txt: none of its 3 images can be read; the first: .*a\.txt:1: .*no such file.*{hint}"
    )
    with pytest.raises(DataError, match=one):
        lookalike.evaluate(run.path, tmp_path / "a.txt")
    both = [tmp_path / "a.txt", tmp_path / "b.txt"]
    with pytest.raises(DataError, match=rf"^none of the 6 images can be read; .*{hint}"):
        lookalike.embed(run.path, both, tmp_path / "v.npy")
    assert "left out" not in caplog.text


@pytest.mark.parametrize(
    "given",
    [{"label_column": "second"}, {"path_column": "large"}, {"image_root": "photos"}],
    ids=lambda given: next(iter(given)),
)
@pytest.mark.parametrize("command", [lookalike.export, lookalike.report, lookalike.compare])
def test_the_layout_of_no_list_is_refused(trained, command, given, tmp_path):
    _, run = trained
    (name, value), given = next(iter(given.items())), dict(given)
    if command is lookalike.compare:
        np.save(tmp_path / "x.npy", np.ones((3, 4), np.float32))
        given["embeddings"] = tmp_path / "x.npy"
    with pytest.raises(ConfigError, match=rf"{name}='{value}' \(--.*\) is of a list: give"):
        command(*[run.path] * (command is not lookalike.compare), **given)


def test_another_list_is_read_by_its_own_names_of_columns(trained, shapes, tmp_path):
    _, run = trained
    other = tmp_path / "other.csv"
    text = (shapes / "val.txt").read_text().splitlines()
    rows = "".join(f"{shapes}/{line.rsplit(' ', 1)[0]},{line.rsplit(' ', 1)[1]}\n" for line in text)
    other.write_text("path,label\n" + rows)
    assert lookalike.evaluate(run.path, other).map_at_r == pytest.approx(
        run.scores()[-1]["map_at_r"]
    )


def test_doctor_reads_another_list_by_its_own_columns(trained, other, shapes, tmp_path):
    """Those of the run are of its lists, which other lists need not have."""
    folder, run = trained
    settings = {"run": run.path, "images": False, "device": "cpu"}
    plain = tmp_path / "plain.txt"
    plain.write_text((shapes / "val.txt").read_text().replace("images/", f"{shapes}/images/"))
    expected = lookalike.doctor(data=folder / "val.csv", **settings)  # the run's own
    assert all(record.label.startswith("shape ") for record in expected.lists.records)
    for data, columns in (
        (plain, {}),
        (shapes / "val.txt", {}),
        (other, COLUMNS),
    ):
        found = lookalike.doctor(data=data, **settings, **columns)
        assert found.facts["labels"] == expected.facts["labels"], data
        assert [issue.kind for issue in found.issues] == [issue.kind for issue in expected.issues]
    with pytest.raises(DataError, match=r"may be 'small', 'large'; set data\.path_column"):
        lookalike.doctor(data=other, **settings)


def test_a_list_of_the_run_is_its_own_in_all_spellings(trained, monkeypatch, tmp_path):
    folder, run = trained
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    for place in ("val.csv", "./val.csv", tmp_path / "link/val.csv", f"file://{folder}/val.csv"):
        scores = lookalike.evaluate(run.path, place)
        assert scores.map_at_r == pytest.approx(map_at_r(run)), place
    both = lookalike.doctor(
        data="{train,val}.csv", run=run.path, images=False, device="cpu",
    )  # fmt: skip
    assert all(record.label.startswith("shape ") for record in both.lists.records)


@pytest.fixture
def asked(trained, shapes, tmp_path):
    """The validation list as a table with other columns than `other`, and paths of its own root."""
    rows = ["draft,shot,what"]
    for line in (shapes / "val.txt").read_text().splitlines():
        path, label = line.rsplit(" ", 1)
        rows.append(f"x.jpg,{path.removeprefix('images/')},{label}")
    place = tmp_path / "asked.csv"
    place.write_text("\n".join(rows) + "\n")
    return place


def test_queries_may_have_other_columns_than_the_gallery(trained, other, asked, shapes, tmp_path):
    _, run = trained
    queries = {"query_path_column": "shot", "query_image_root": f"{shapes}/images"}
    with pytest.raises(DataError, match=r"asked\.csv:1: no column named data\.path_column=large"):
        search(run.path, asked, gallery=other, device="cpu", **COLUMNS)
    found = search(run.path, asked, gallery=other, k=1, device="cpu", **COLUMNS, **queries)
    labels = [answer.neighbours[0].label for answer in found.answers]
    assert labels[::4] == ["100", "101", "102", "103", "104"]
    assert all(answer.neighbours[0].itself for answer in found.answers)
    with pytest.raises(DataError, match=r"asked\.csv:1: no column named data\.label_column=second"):
        lookalike.evaluate(run.path, query=asked, gallery=other, device="cpu", **COLUMNS, **queries)
    queries["query_label_column"] = "what"
    scores = lookalike.evaluate(
        run.path, query=asked, gallery=other, device="cpu", **COLUMNS, **queries
    )
    assert scores.map_at_r == pytest.approx(map_at_r(run))
    compared = lookalike.compare(
        run.path, query=asked, gallery=other, device="cpu", **COLUMNS, **queries
    )
    assert compared.evaluations[0].scores.map_at_r == scores.map_at_r


def test_queries_may_be_found_by_content_where_the_gallery_is_not(
    trained, other, shapes, monkeypatch, tmp_path, capsys
):
    """A list of paths has no columns, and its folder is its own."""
    _, run = trained
    plain = tmp_path / "plain.txt"
    plain.write_text(f"{shapes}/images/100-0.jpg\n")
    words = ["search", run.path, plain, "--gallery", other, "--device", "cpu", "--k", "1", "--json"]
    words += ["--path-column", "large", "--label-column", "second", "--image-root", shapes]
    assert program.run(monkeypatch, *words) == 2
    assert "plain.txt:1: no first line with names of columns" in capsys.readouterr().err
    words += ["--query-path-column", "", "--query-image-root", ""]
    assert program.run(monkeypatch, *words) == 0
    assert '"label": "100"' in capsys.readouterr().out
    words = ["evaluate", run.path, "--query", shapes / "val.txt", "--gallery", other]
    words += ["--path-column", "large", "--label-column", "second", "--device", "cpu"]
    assert program.run(monkeypatch, *words) == 2
    words += ["--query-path-column", "", "--query-label-column", ""]
    assert program.run(monkeypatch, *words) == 0


def test_columns_of_queries_without_queries_are_refused(trained, other, tmp_path):
    _, run = trained
    for use, flag in (
        (lambda **more: search(run.path, gallery=other, **more), "queries"),
        (lambda **more: lookalike.evaluate(run.path, other, **more), "--query and --gallery"),
        (lambda **more: lookalike.compare(run.path, other, **more), "--query and --gallery"),
    ):
        with pytest.raises(ConfigError, match=rf"--query-path-column\) is of queries: give {flag}"):
            use(query_path_column="x", device="cpu")
        with pytest.raises(ConfigError, match=r"query_path_column=3 must be a text or None"):
            use(query_path_column=3, device="cpu")


def test_a_model_inside_of_a_run_is_measured_as_the_run(trained, shapes, tmp_path):
    """Its folder `model` and its exports; also with another model before the run."""
    folder, run = trained
    exported = lookalike.export(run.path, "safetensors").path
    for models in ([run.model], [f"{run.model}/"], [exported], [folder / "alone", run.path]):
        if models[0] == folder / "alone":
            shutil.copytree(run.model, models[0])
        for found in lookalike.compare(models, folder / "val.csv", device="cpu").evaluations:
            assert found.scores.map_at_r == pytest.approx(map_at_r(run)), models
    lookalike.improve(run.model, folder / "val.csv", variants=["flip"])


def test_a_model_inside_of_a_run_has_its_label_separator(trained, shapes, tmp_path):
    _, run = trained
    inside = tmp_path / "run" / "model"
    shutil.copytree(run.model, inside)
    (tmp_path / "run/config.yaml").write_text("data: {label_separator: ';'}\n")
    lines = (shapes / "val.txt").read_text().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines]
    texts = [f"{shapes}/{path} {label};{n}\n" for n, (path, label) in enumerate(pairs)]
    (tmp_path / "list.txt").write_text("".join(texts))
    scores = lookalike.evaluate(inside, tmp_path / "list.txt")
    assert scores.num_queries == len(lines)
