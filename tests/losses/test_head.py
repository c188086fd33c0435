import pytest
import torch
from losses_reference import draw, head_with

from lookalike.distributed.world import World
from lookalike.losses import create_loss
from lookalike.losses.class_weights import HeadOptions
from lookalike.losses.head import Head

ARCFACE = create_loss("arcface")


def head_of(weight, **options):
    return head_with(ARCFACE, weight, **options)


@pytest.mark.parametrize("count", [1, 5, 1024, 2500])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_initial_weights_do_not_depend_on_the_sharding(count, size):
    whole = Head(6, count, ARCFACE, seed=3)
    assert whole.rows == range(count)
    shards = [
        Head(6, count, ARCFACE, seed=3, sharded=True, world=World(rank=rank, size=size))
        for rank in range(size)
    ]
    assert [len(s.weight) for s in shards] == [len(s.rows) for s in shards]
    assert torch.equal(torch.cat([s.weight for s in shards]), whole.weight)
    replica = Head(6, count, ARCFACE, seed=3, world=World(rank=1, size=size))
    assert torch.equal(replica.weight, whole.weight)


def test_initial_weights_are_normal_and_follow_the_seed():
    weight = Head(64, 3000, ARCFACE, seed=1, init_std=0.05).weight
    assert weight.dtype == torch.float32
    assert abs(weight.mean().item()) < 0.001
    assert weight.std().item() == pytest.approx(0.05, rel=0.02)
    blocks = weight[:1024], weight[1024:2048]
    assert not torch.equal(*blocks)
    assert torch.equal(weight, Head(64, 3000, ARCFACE, seed=1, init_std=0.05).weight)
    assert not torch.equal(weight, Head(64, 3000, ARCFACE, seed=2, init_std=0.05).weight)
    # More classes keep the values of the first ones.
    assert torch.equal(weight, Head(64, 3500, ARCFACE, seed=1, init_std=0.05).weight[:3000])


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_predict_is_the_nearest_class_by_cosine(chunk):
    embeddings, weight, _ = draw(50, 8, 31)
    cos = torch.cosine_similarity(embeddings[:, None], weight[None], dim=2)
    head = head_of(weight, chunk=chunk)
    assert torch.equal(head.predict(embeddings), cos.argmax(1))
    assert head.predict(embeddings[:0]).shape == (0,)


@pytest.mark.parametrize("chunk", [None, 1, 2, 3])
def test_predict_gives_equal_classes_to_the_lowest(chunk):
    weight = torch.tensor([[0.0, 1], [3, 4], [3, 4], [1, 0], [3, 4], [6, 8], [0, 0]])
    embeddings = torch.tensor([[3.0, 4], [0, 2], [5, 0], [0, 0]])
    assert head_of(weight, chunk=chunk).predict(embeddings).tolist() == [1, 0, 3, 0]


@pytest.mark.parametrize("wrong", [-1, 5, 1000])
def test_class_out_of_range(wrong):
    head = Head(3, 5, ARCFACE)
    with pytest.raises(ValueError, match=rf"class {wrong} is not in \[0, 5\)"):
        head(torch.ones(2, 3), torch.tensor([0, wrong]))


def test_shapes_and_settings_that_do_not_fit():
    head = Head(3, 5, ARCFACE)
    with pytest.raises(ValueError, match=r"expected \(b, 3\)"):
        head(torch.ones(2, 4), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"expected \(b, 3\)"):
        head(torch.ones(2, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match="label_smoothing"):
        Head(3, 5, ARCFACE, label_smoothing=1)
    for sizes in ({"dim": 0}, {"num_classes": 0}):
        with pytest.raises(ValueError, match="not positive"):
            Head(**{"dim": 3, "num_classes": 5, "margin": ARCFACE, **sizes})
    for options in ({"chunk": 0}, {"centres": 0}):
        with pytest.raises(ValueError, match="not positive"):
            HeadOptions(**options)
    for options in ({"sample_rate": 0.5}, {"dtype": torch.bfloat16}):
        with pytest.raises(ValueError, match="need update"):
            HeadOptions(**options)
    for options in ({"centres": 2}, {"filter_above": 0.5}):
        with pytest.raises(ValueError, match="normalised classes"):
            Head(3, 5, create_loss("softmax"), HeadOptions(**options))


def test_repr_has_sizes_margin_and_held_classes():
    world = World(rank=1, size=2)
    text = repr(Head(3, 5, ARCFACE, label_smoothing=0.1, sharded=True, world=world))
    assert "dim=3, num_classes=5, ArcFace(margin=28.6, scale=64.0)" in text
    assert "label_smoothing=0.1" in text
    assert "classes 3 to 4 here" in text
    empty = Head(3, 2, ARCFACE, sharded=True, world=World(rank=2, size=3))
    assert "no classes here" in repr(empty)
