"""Parameter groups by weight decay and learning rate."""

import pytest
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from lookalike.model.backbone import Backbone
from lookalike.training.optimizer import create_optimizer, parameter_groups


class Tokens(nn.Module):
    """A backbone with an exempt parameter, as position embeddings are in timm."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), nn.LayerNorm(3)
        self.positions = nn.Parameter(torch.zeros(2, 3))
        self.position = nn.Linear(3, 3, bias=False)
        self.unused = nn.Parameter(torch.zeros(5, 5), requires_grad=False)

    def no_weight_decay(self):
        return {"positions", "position.*"}


def test_groups_have_the_decay_and_the_factor_of_their_parameters():
    network = nn.ModuleDict({"backbone": Tokens(), "neck": nn.Linear(3, 2)})
    head = nn.Linear(2, 7, bias=False)
    groups = parameter_groups(
        network, [head], weight_decay=0.05, backbone_prefix="backbone.", backbone_lr_factor=0.1,
        head_lr_factor=10.0,
    )  # fmt: skip
    names = {parameter: name for name, parameter in network.named_parameters()}
    names[head.weight] = "head"
    found = {
        names[parameter]: (group["weight_decay"], group["lr_factor"])
        for group in groups
        for parameter in group["params"]
    }
    assert found == {
        "backbone.linear.weight": (0.05, 0.1), "backbone.linear.bias": (0.0, 0.1),
        "backbone.norm.weight": (0.0, 0.1), "backbone.norm.bias": (0.0, 0.1),
        "backbone.positions": (0.0, 0.1), "backbone.position.weight": (0.0, 0.1),
        "neck.weight": (0.05, 1.0), "neck.bias": (0.0, 1.0), "head": (0.05, 10.0),
    }  # fmt: skip


def test_momentum_is_that_of_sgd_and_the_first_beta_of_adamw():
    groups = [[{"params": [nn.Parameter(torch.zeros(1))]}] for _ in range(2)]
    sgd = create_optimizer("sgd", groups[0], momentum=0.8)
    adamw = create_optimizer("adamw", groups[1], momentum=0.8)
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.param_groups[0]["momentum"] == 0.8
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.param_groups[0]["betas"] == (0.8, 0.999)


@pytest.mark.parametrize(
    "name", ["test_vit", "test_convnext", "test_resnet", "xcit_nano_12_p16_224"]
)
def test_rates_of_layers_are_those_of_timm(name):
    backbone = Backbone(name, 32)
    network = nn.ModuleDict({"backbone": backbone, "neck": nn.Linear(3, 2)})
    ours = parameter_groups(
        network, [], weight_decay=0.05, backbone_prefix="backbone.", backbone_lr_factor=0.1,
        layers=backbone.layers(), layer_decay=0.7,
    )  # fmt: skip
    theirs = param_groups_layer_decay(backbone.model, weight_decay=0.05, layer_decay=0.7)
    expected = {
        id(parameter): pytest.approx(0.1 * group["lr_scale"])
        for group in theirs
        for parameter in group["params"]
    } | dict.fromkeys(map(id, network["neck"].parameters()), 1.0)
    found = {id(parameter): group["lr_factor"] for group in ours for parameter in group["params"]}
    assert found == expected
    assert len(set(found.values())) > 4
