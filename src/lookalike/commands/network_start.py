"""Network of a run as it begins, and what the recipe chooses by its features."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lookalike.config.config import Config
from lookalike.data.catalog import Catalog
from lookalike.data.loading.image_source import Source
from lookalike.distributed.world import World
from lookalike.losses import MetricLoss
from lookalike.model.embedder import Embedder
from lookalike.planning.choice import Choice, with_choices
from lookalike.planning.choices_by_start import choose_by_start, poolings_to_measure
from lookalike.training.build import create_embedder
from lookalike.training.frozen_start import StartFeatures, start_features


@dataclass(frozen=True)
class NetworkStart:
    """Network of a run as it begins.

    Attributes:
        features: of training images, where neck and class weights start from them.
        choices: by their retrieval.
    """

    embedder: Embedder
    features: StartFeatures | None
    choices: list[Choice]

    def of_list(self, catalog: Catalog, *, source: Source, world: World) -> NetworkStart:
        """The same network with neck and features of another list; called by all workers.

        The features are not taken from those of a list that holds this one: a run resumed before
        its first checkpoint computes them of this list alone, and batches of other images, above
        all a last one of another size, may have other last bits.
        """
        features = start_features(self.embedder, catalog, source=source, world=world)
        features.set_neck(self.embedder.neck, world)
        return replace(self, features=features)


def start_network(
    config: Config,
    loss: MetricLoss,
    catalog: Catalog,
    *,
    begins: bool,
    held_out: float | None = None,
    source: Source,
    world: World,
) -> NetworkStart:
    """Build the network and its neck; called by all workers together.

    Args:
        config: the request with the choices that need no network.
        begins: False for a run whose weights come from a checkpoint or another run.
        held_out: as `choose_by_start` takes it.
    """
    if not begins or not config.model.init_from_features:
        embedder = create_embedder(config, loss, pretrained=begins)
        return NetworkStart(embedder, None, choose_by_start(config, {}))
    poolings = poolings_to_measure(config)
    embedder = create_embedder(
        config.with_values({"model.pooling": poolings[0]}), loss, pretrained=True
    )
    kinds = sorted({kind for pooling in poolings for kind in pooling.split("+")})
    features = start_features(embedder, catalog, poolings=kinds, source=source, world=world)
    features.set_neck(embedder.neck, world)
    found = {poolings[0]: embedder}
    for pooling in poolings[1:]:
        other = create_embedder(
            config.with_values({"model.pooling": pooling}), loss, pretrained=False
        )
        other.backbone.load_state_dict(embedder.backbone.state_dict())
        features.set_neck(other.neck, world)
        found[pooling] = other
    starts = {pooling: features.scores(each.neck, world) for pooling, each in found.items()}
    choices = choose_by_start(config, starts, held_out)
    pooling = with_choices(config, choices).model.pooling
    return NetworkStart(found[pooling], features, choices)
