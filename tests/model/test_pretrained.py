import functools
import pickle
import re

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from lookalike.errors import ModelError, StorageError
from lookalike.model.pretrained import load_into, read_weights


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


PREFIXES = [
    "module.", "model.backbone.", "backbone.model.", "trunk.", "net.", "module.encoder_q.",
    "student.backbone.", "whatever.it.is.",
]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_ema"])
def test_usual_prefixes_are_found(tmp_path, prefix, wrapper):
    source, target = small(), small()
    state = {prefix + key: value for key, value in source.state_dict().items()}
    path = tmp_path / "w.pth"
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    match = load_into(target, read_weights(str(path)), "w")
    assert not match.missing
    assert torch.equal(source.conv_stem.weight, target.conv_stem.weight)


def test_unmatched_tensors_are_named(tmp_path):
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


def test_a_deeper_or_shallower_model_of_the_family_is_refused():
    nets = {
        name: timm.create_model(name, num_classes=0, global_pool="")
        for name in ("resnet18", "resnet34", "resnet50")
    }
    for source, target, words in [
        ("resnet50", "resnet18", r"\d+ of 120 tensors.*e\.g\. layer1\.0\.conv1\.weight: 64x64x1x1"),
        ("resnet34", "resnet18", r"e\.g\. layer1\.2\.conv1\.weight is no part of this backbone"),
        ("resnet18", "resnet34", r"they hold 53% of its parameters"),
    ]:
        with pytest.raises(ModelError, match=rf"w does not fit .*{words}.*of another architecture"):
            load_into(nets[target], nets[source].state_dict(), "w")


def test_numbers_that_are_not_finite_are_refused():
    state = small().state_dict()
    state["conv_stem.weight"][0, 0, 0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"w: conv_stem\.weight holds numbers that are not finite"):
        load_into(small(), state, "w")


@pytest.mark.parametrize(
    ("first", "second"),
    [("teacher", "student"), ("model", "model_ema"), ("encoder_q", "encoder_k")],
)
@pytest.mark.parametrize("turned", [False, True])
def test_of_copies_that_fit_equally_the_choice_is_named(first, second, turned):
    wanted, other = small().state_dict(), small().state_dict()
    copies = {f"{first}.": wanted, f"{second}.": other}
    order = reversed(copies.items()) if turned else copies.items()
    state = {prefix + key: value for prefix, tensors in order for key, value in tensors.items()}
    target = small()
    match = load_into(target, state | {"optimizer.0.bn1.weight": torch.ones(3)}, "w")
    assert torch.equal(target.conv_stem.weight, wanted["conv_stem.weight"])
    assert f"(below '{first}.' in the file, preferred to '{second}.')" in match.summary()
    assert not match.unused


def test_unused_parameters_do_not_count():
    model = timm.create_model("mobilenetv3_small_050", num_classes=0, global_pool="")
    state = model.state_dict()
    del state["conv_head.weight"], state["conv_head.bias"]  # half a million of 1.1 million
    with pytest.raises(ModelError, match="does not fit"):
        load_into(model, state, "w")
    match = load_into(model, state, "w", unused=["conv_head.weight", "conv_head.bias"])
    assert match.share == 1
    assert set(match.missing) == {"conv_head.weight", "conv_head.bias"}


def test_an_old_layout_below_a_wrapper_is_renamed_by_timm():
    """The authors' ConvNeXt has no name in common with timm's, but for the last norm's."""
    model = timm.create_model("convnext_atto", num_classes=0, global_pool="")
    theirs = {}
    for key, value in model.state_dict().items():
        key = key.replace("stem.0", "downsample_layers.0.0").replace(
            "stem.1", "downsample_layers.0.1"
        )
        key = re.sub(r"stages\.(\d)\.downsample\.(\d)", r"downsample_layers.\1.\2", key)
        key = re.sub(r"stages\.(\d)\.blocks\.(\d+)", r"stages.\1.\2", key)
        key = (
            key.replace("conv_dw", "dwconv")
            .replace("mlp.fc1", "pwconv1")
            .replace("mlp.fc2", "pwconv2")
        )
        theirs["module.visual." + key.replace("head.norm", "norm")] = value
    target = timm.create_model("convnext_atto", num_classes=0, global_pool="")
    match = load_into(target, theirs, "w")
    assert match.share == 1
    assert match.prefix == "module.visual."
    assert torch.equal(
        target.stages[0].blocks[0].conv_dw.weight, model.stages[0].blocks[0].conv_dw.weight
    )


def test_position_embeddings_are_resized_to_the_image_size():
    source = timm.create_model("test_vit", num_classes=0, img_size=160)
    target = timm.create_model("test_vit", num_classes=0, img_size=96)
    match = load_into(target, source.state_dict(), "w")
    assert not match.missing


def test_resizing_of_window_positions_is_silent(recwarn):
    build = functools.partial(
        timm.create_model, "swin_tiny_patch4_window7_224", num_classes=0, embed_dim=24,
        depths=(1, 1, 1, 1),
    )  # fmt: skip
    match = load_into(build(img_size=96), build().state_dict(), "w")
    assert not match.missing
    assert not recwarn.list


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
