"""Label scores by the centres of the classes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lookalike
from lookalike.data.catalog import build_catalog
from lookalike.data.held_out_classes import hold_out
from lookalike.data.record import Details, Record
from lookalike.inspection.label_checks import check_labels, label_scores


def clusters(labels: list[int], content: list[int], spread: float = 0.2) -> torch.Tensor:
    """Unit vectors around the direction of the class that each image shows."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(16)
    noise = spread * torch.randn(len(labels), 16, generator=generator) / 4
    return F.normalize(centres[torch.tensor(content)] + noise, dim=1)


def test_scores_are_those_of_centres_computed_one_by_one():
    rng = np.random.default_rng(0)
    vectors = F.normalize(torch.from_numpy(rng.normal(size=(40, 8))).float(), dim=1)
    classes = torch.from_numpy(rng.integers(0, 6, 40))
    classes[0] = 6  # alone; class 7 is empty
    found, _ = label_scores(vectors, classes, 8)
    for row in range(40):
        cosines = {}
        for c in range(7):
            mine = [i for i in range(40) if classes[i] == c and i != row]
            if mine:
                centre = vectors[mine].double().sum(0)
                cosines[c] = float(vectors[row].double() @ (centre / centre.norm()))
        own = cosines.pop(int(classes[row]), None)
        best = max(cosines, key=cosines.get)
        assert int(found.nearest[row]) == best
        assert float(found.other[row]) == pytest.approx(cosines[best], abs=1e-5)
        assert bool(found.judged[row]) == (own is not None)
        if own is not None:
            assert float(found.own[row]) == pytest.approx(own, abs=1e-5)


def test_a_wrong_label_ranks_first_and_twin_classes_are_an_issue():
    labels = [c for c in range(5) for _ in range(6)]
    content = [3 if c == 4 else c for c in labels]  # classes 3 and 4 show the same
    content[2] = 1  # shows class 1, is called 0
    records = [Record(f"{i}.jpg", str(c), "t.txt", i + 1) for i, c in enumerate(labels)]
    catalog = build_catalog(records)
    facts, found = check_labels(catalog, torch.arange(30), clusters(labels, content))
    suspects, pairs = found
    assert suspects.groups[0].rows == (2,)
    assert "its class 0" in suspects.groups[0].note
    assert facts["judged"] == 30
    assert len(pairs.groups) == 1
    assert pairs.groups[0].note.startswith("3 and 4: centres at cosine")
    assert {labels[row] for row in pairs.groups[0].rows} == {3, 4}


def test_images_with_several_labels_are_of_each_of_their_classes():
    shown = [c for c in range(5) for _ in range(6)]
    labels = [[str(c)] if c < 4 else ["3", "z"] for c in shown]  # z is no image's first label
    labels[2] = ["1"]  # shows class 0
    labels[25] = ["2"]  # shows z
    more = [None if len(found) == 1 else Details(further_labels=("z",)) for found in labels]
    records = [
        Record(f"{i}.jpg", found[0], "t.txt", i + 1, None, details)
        for i, (found, details) in enumerate(zip(labels, more, strict=True))
    ]
    _, found = check_labels(build_catalog(records), torch.arange(30), clusters(shown, shown))
    assert {group.rows[0]: group.label for group in found[0].groups} == {2: "0", 25: "z"}
    assert "to its class 2, " in found[0].groups[0].note + found[0].groups[1].note


def test_classes_alike_count_all_images_of_a_class():
    # The images of twins a and b show the same; those of a have another label first.
    labels = ["x"] * 6 + ["b"] * 6 + ["c"] * 6 + ["x"] * 6
    content = [1] * 12 + [2] * 6 + [3] * 6
    records = [
        Record(
            f"{i}.jpg", c, "t.txt", i + 1, None, Details(further_labels=("a",)) if i < 6 else None
        )
        for i, c in enumerate(labels)
    ]
    _, found = check_labels(build_catalog(records), torch.arange(24), clusters(content, content))
    [pairs] = [one for one in found if one.kind == "classes_alike"]
    assert pairs.groups[0].note.startswith("a and b: ")
    assert pairs.groups[0].note.endswith("of their 12 images are closer to the other")


def test_held_out_labels_of_an_image_are_not_suggested():
    records = [
        Record(f"{i}.jpg", str(c), "t.txt", i + 1, None, Details(further_labels=(f"z{c}",)))
        for i, c in enumerate(c for c in range(8) for _ in range(6))
    ]
    catalog, _ = hold_out(build_catalog(records), 0.25, 0)
    shown = [int(record.label) for record in catalog.records]
    vectors = clusters(shown, [shown[-1], *shown[1:]])
    _, found = check_labels(catalog, torch.arange(len(shown)), vectors)
    assert found[0].groups[0].rows == (0,)
    assert found[0].groups[0].label == str(shown[-1])


@pytest.mark.parametrize(("num_classes", "needed"), [(2, 0.75), (8, 0.5625), (20, 0.525)])
def test_a_weak_model_judges_no_labels(num_classes, needed):
    labels = [c for c in range(num_classes) for _ in range(12)]
    records = [Record(f"{i}.jpg", str(c), "t.txt", i + 1) for i, c in enumerate(labels)]
    rng = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(len(labels), 16, generator=rng), dim=1)
    facts, [only] = check_labels(build_catalog(records), torch.arange(len(labels)), vectors)
    assert (only.kind, only.severity, only.count) == ("labels_not_judged", "note", 1)
    assert only.groups[0].rows == ()
    assert "are closest to the centre of their own class; by chance" in only.groups[0].note
    assert facts["nearest_centre_accuracy"] < needed == facts["nearest_centre_needed"]
    assert "suspect_labels" not in facts


def test_a_list_with_many_wrong_labels_is_judged_by_a_good_model():
    labels = [c for c in range(5) for _ in range(20)]
    content = [(c + 1) % 5 if i % 20 < 7 else c for i, c in enumerate(labels)]  # 35 % are wrong
    records = [Record(f"{i}.jpg", str(c), "t.txt", i + 1) for i, c in enumerate(labels)]
    facts, found = check_labels(
        build_catalog(records), torch.arange(len(labels)), clusters(labels, content)
    )
    assert facts["nearest_centre_accuracy"] == 0.65
    assert {row for group in found[0].groups for row in group.rows} == {
        i for i in range(len(labels)) if i % 20 < 7
    }


def test_a_trained_run_judges_its_list(shapes, tmp_path):
    output = tmp_path / "run"
    text = (shapes / "train.txt").read_text().splitlines()
    text[1] = text[1].rsplit(" ", 1)[0] + " 5"  # a picture of class 0
    wrong = shapes / "wrong.txt"
    wrong.write_text("\n".join(text) + "\n")
    lookalike.train(
        train=str(wrong), output=str(output), backbone="test_resnet", epochs=12,
        pretrained=False, image_size=48, embedding_dim=32, batch_size=8, threads=2,
        device="cpu", min_crop=0.7, flip=0.0,
    )  # fmt: skip
    found = lookalike.doctor(run=output, images=False, output=str(tmp_path / "out"), device="cpu")
    assert found.facts["labels"]["embedded"] == 48
    [suspects] = [f for f in found.issues if f.kind == "suspect_labels"]
    assert 1 in [group.rows[0] for group in suspects.groups[:3]]
    assert "suspect_labels" in (tmp_path / "out/doctor.html").read_text()
    other = lookalike.doctor(run=output, data=str(shapes / "val.txt"), images=False, device="cpu")
    assert other.facts["labels"]["embedded"] == 20
    with pytest.raises(lookalike.LookalikeError, match="exclude each other"):
        lookalike.doctor(run=output, train=str(wrong), images=False)
    with pytest.raises(lookalike.LookalikeError, match=r"nosuch\.txt"):
        lookalike.doctor(run=output, val=str(shapes / "nosuch.txt"), images=False, device="cpu")
    with pytest.raises(lookalike.LookalikeError, match=r"image_size=64 contradicts the run"):
        lookalike.doctor(run=output, image_size=64, images=False, device="cpu")
    moved = tmp_path / "moved.csv"
    moved.write_text("path,who\n" + (shapes / "val.txt").read_text().replace(" ", ","))
    settings = {"label_column": "who", "image_root": str(shapes), "device": "cpu"}
    other = lookalike.doctor(run=output, data=str(moved), images=False, **settings)
    assert other.facts["labels"]["embedded"] == 20
