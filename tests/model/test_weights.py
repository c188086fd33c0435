import pickle

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from lookalike.errors import ModelError, StorageError
from lookalike.model.weights import load_into, read_weights


def small() -> nn.Module:
    return timm.create_model("test_efficientnet", num_classes=0, global_pool="")


def save(tensors, path, form):
    if form == "safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(tensors, path)


@pytest.mark.parametrize("form", ["safetensors", "pth"])
def test_weights_of_the_same_model_all_match(tmp_path, form):
    source, target = small(), small()
    path = tmp_path / f"w.{form}"
    save(source.state_dict(), path, form)
    match = load_into(target, read_weights(str(path)), str(path))
    assert not match.missing
    assert not match.unused
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, target.state_dict()[name]), name


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "model.backbone.", "backbone.model."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_the_usual_wrappers_come_off(tmp_path, prefix, wrapper):
    source, target = small(), small()
    state = {prefix + key: value for key, value in source.state_dict().items()}
    path = tmp_path / "w.pth"
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    match = load_into(target, read_weights(str(path)), "w")
    assert not match.missing
    assert torch.equal(source.conv_stem.weight, target.conv_stem.weight)


def test_what_did_not_match_is_named(tmp_path):
    source, target = small(), small()
    state = source.state_dict()
    state["conv_stem.weight"] = torch.zeros(3, 3, 3, 3)
    del state["bn1.weight"]
    state["fc.weight"] = torch.zeros(10, 4)
    match = load_into(target, state, "w")
    assert set(match.missing) == {"conv_stem.weight", "bn1.weight"}
    assert match.unused == ("fc.weight",)
    assert match.misshapen == ("conv_stem.weight: 3x3x3x3, the model has 8x3x3x3",) or (
        "3x3x3x3" in match.misshapen[0]
    )
    total = len(target.state_dict())
    assert match.summary().startswith(f"{total - 2} of {total} tensors matched; 2 missing: ")


def test_a_file_that_plainly_does_not_fit_is_refused():
    other = timm.create_model("test_vit", num_classes=0).state_dict()
    with pytest.raises(ModelError, match=r"w\.pth does not fit this backbone: 0 of \d+ tensors"):
        load_into(small(), other, "w.pth")


def test_position_embeddings_are_resized_to_the_image_size():
    source = timm.create_model("test_vit", num_classes=0, img_size=160)
    target = timm.create_model("test_vit", num_classes=0, img_size=96)
    match = load_into(target, source.state_dict(), "w")
    assert not match.missing


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_no_code_is_run(tmp_path, capsys):
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"a": Evil()}))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(ModelError, match=name):
            read_weights(str(tmp_path / name))
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("data", [b"", b"garbage", b"PK\x03\x04broken", b"\x80\x02}q\x00."])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_broken_file_is_one_clear_line(tmp_path, data, name):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelError) as caught:
        read_weights(str(tmp_path / name))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"none\.pth: no such file"):
        read_weights(str(tmp_path / "none.pth"))
