"""Every row of the component's page is a setting here, under the documented key and default."""

import pytest

from lookalike.config.config import FLAGS, Config, keys
from lookalike.errors import ConfigError
from lookalike.losses import MARGINS, create_loss
from lookalike.model import BACKBONES, timm_name

# (the component's parameter, our key, our default, values that must be accepted and their meaning)
ROWS = [
    (
        "Metric learning model type",
        "head.parallel",
        "data",
        {
            "data": "data",
            "model": "model",
            "Data-parallel metric learning": "data",
            "Model-parallel metric learning": "model",
        },
    ),
    ("OSS directory for training output", "run.output", None, {"runs/x": "runs/x"}),
    ("Training annotation file path", "data.train", None, {"oss://b/t.txt": "oss://b/t.txt"}),
    ("Validation annotation file path", "data.val", None, {"v.txt": "v.txt"}),
    ("File of class name list", "data.classes", None, {"[a, b]": ["a", "b"], "n.txt": "n.txt"}),
    (
        "Data source format",
        "data.format",
        "auto",
        {"ClsSourceImageList": "image_list", "ClsSourceItag": "itag", "auto": "auto"},
    ),
    (
        "OSS path of the pre-trained model",
        "model.pretrained",
        True,
        {"true": True, "false": False, "oss://b/w.pth": "oss://b/w.pth"},
    ),
    (
        "Metric learning backbone",
        "model.backbone",
        "resnet50",
        {
            "resnet_50": "resnet50",
            "resnet_18": "resnet18",
            "resnet_34": "resnet34",
            "resnet_101": "resnet101",
            "swin_transformer_tiny": "swint_tiny",
            "swin_transformer_small": "swint_small",
            "swin_transformer_base": "swint_base",
            **{name: name for name in BACKBONES},
            "convnext_tiny": "convnext_tiny",
        },
    ),
    ("Image resize size", "model.image_size", 224, {"96": 96}),
    ("Backbone output feature dimension", "model.backbone_dim", None, {"2048": 2048}),
    ("Feature output dimension", "model.embedding_dim", 1536, {"512": 512}),
    ("Number of training classes", "data.num_classes", None, {"1000": 1000}),
    (
        "Loss function",
        "loss.name",
        "amsoftmax",
        {
            **{name: name for name in MARGINS},
            "AMSoftmax": "amsoftmax",
            "ArcFaceLoss": "arcface",
            "CosFaceLoss": "cosface",
            "LargeMarginSoftmaxLoss": "large_margin_softmax",
            "SphereFaceLoss": "sphereface",
            "Model-parallel AMSoftmax": "amsoftmax",
            "Model-parallel Softmax": "softmax",
        },
    ),
    ("Loss function scale parameter", "loss.scale", None, {"30": 30.0}),
    ("Loss function margin parameter", "loss.margin", None, {"0.4": 0.4}),
    ("Loss function weight", "loss.weight", 1.0, {"0.5": 0.5}),
    ("Optimizer", "optim.name", "sgd", {"SGD": "sgd", "AdamW": "adamw"}),
    ("Initial learning rate", "optim.lr", 0.03, {"1e-3": 1e-3}),
    ("Training batch_size", "train.batch_size", 64, {"128": 128}),
    ("Total training epochs", "train.epochs", 200, {"3": 3}),
    ("Checkpoint saving frequency", "train.checkpoint_every", 10, {"1": 1}),
    ("Training data read threads", "data.threads", 4, {"8": 8}),
    (
        "Enable half-precision",
        "train.precision",
        "auto",
        {"fp16": "fp16", "bf16": "bf16", "fp32": "fp32"},
    ),
    ("Workers", "run.workers", 1, {"4": 4}),
]


@pytest.mark.parametrize(("row", "key", "default", "values"), ROWS, ids=[r[0] for r in ROWS])
def test_row(row, key, default, values):
    assert Config().get(key) == default
    for written, meaning in values.items():
        assert Config.load(None, [f"{key}={written}"]).get(key) == meaning, written
    assert keys()[key][2], f"{key} is not documented"


def test_recommended_margin_and_scale_are_those_of_the_page():
    page = {
        "amsoftmax": (0.4, 30),
        "arcface": (28.6, 64),
        "cosface": (0.35, 64),
        "large_margin_softmax": (4, 1),
        "sphereface": (4, 1),
    }
    for name, (margin, scale) in page.items():
        made = create_loss(name)
        assert (made.margin, made.scale) == (margin, scale)


@pytest.mark.parametrize(
    ("name", "margin"),
    [("Model-parallel AMSoftmax", "amsoftmax"), ("Model-parallel Softmax", "softmax")],
)
def test_model_parallel_losses_mean_a_margin_on_a_sharded_head(name, margin):
    config = Config.load(None, [f"loss.name={name}"])
    assert (config.loss.name, config.head.parallel) == (margin, "model")
    with pytest.raises(ConfigError, match="contradicts"):
        Config.load(None, [f"loss.name={name}", "head.parallel=data"])


def test_the_thirteen_backbones_are_timm_models():
    import timm

    assert len(BACKBONES) == 13
    for name in BACKBONES:
        assert timm.is_model(timm_name(name)), name


def test_the_flag_beats_the_file_as_the_port_beats_the_parameter(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("data: {train: file.txt, val: fileval.txt}\n")
    config = Config.load(file, [], {"data.train": "flag.txt", "data.val": None})
    assert (config.data.train, config.data.val) == ("flag.txt", "fileval.txt")
    assert set(FLAGS.values()) <= set(keys())
