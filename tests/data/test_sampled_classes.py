"""Classes drawn from a list, those with a query that can be measured first."""

import torch

from lookalike.data.catalog import build_catalog
from lookalike.data.held_out_classes import sample_classes
from lookalike.data.record import Details, Record
from lookalike.metrics.scores import check_measurable, findable_queries


def test_a_sample_of_a_measurable_list_is_measurable():
    for asked in range(6):  # the one class with a query
        records = [
            Record(
                f"{c}-{i}.jpg",
                f"c{c}",
                "t.csv",
                0,
                None,
                Details(is_query=query, is_gallery=not query),
            )
            for c in range(6)
            for i in range(6)
            for query in [c == asked and i == 0]
        ]
        catalog = build_catalog(records)
        found = findable_queries(catalog)
        assert torch.equal(found.nonzero().flatten(), torch.tensor([6 * asked]))
        sample = sample_classes(catalog, 12, findable=found.numpy())
        assert len(sample) == 12
        check_measurable(sample)
