"""Selected queries and confused classes."""

import numpy as np

from lookalike.reporting.image_panels import confusions, hardest, random, typical


def test_hard_typical_and_random_queries(random_evaluation):
    found = random_evaluation(6)
    margin = found.neighbours.margin
    hard = hardest(found.neighbours, found.labels, 10)
    assert np.all(np.diff(margin[hard]) >= 0)
    classes = found.query_classes[hard].tolist()
    assert max(classes.count(one) for one in classes) <= 2
    assert margin[hard[0]] == margin.min()
    for place in range(len(margin)):  # whatever is harder than the last has two of its class before
        if margin[place] < margin[hard[-1]] and place not in hard:
            assert classes.count(found.query_classes[place]) == 2
    middle = typical(found.neighbours, 6, set(hard))
    easier = [p for p in range(len(margin)) if p not in hard and margin[p] > margin[middle].max()]
    harder = [p for p in range(len(margin)) if p not in hard and margin[p] < margin[middle].min()]
    assert abs(len(easier) - len(harder)) <= 1
    drawn = random(found.neighbours, 6, {*hard, *middle}, seed=1)
    assert len({*hard, *middle, *drawn}) == 22
    assert drawn == random(found.neighbours, 6, {*hard, *middle}, seed=1)
    assert drawn != random(found.neighbours, 6, {*hard, *middle}, seed=2)


def test_confused_classes_are_counted(random_evaluation):
    found = random_evaluation(7)
    labels, first = found.labels, found.neighbours.images[:, 0]
    counts: dict[tuple[int, int], int] = {}
    for query, image in zip(found.neighbours.queries, first, strict=True):
        if labels[query] != labels[image]:
            pair = tuple(sorted((int(labels[query]), int(labels[image]))))
            counts[pair] = counts.get(pair, 0) + 1
    shown = confusions(found.neighbours, labels, count=9, examples=2)
    assert [one.wrong for one in shown] == sorted(counts.values(), reverse=True)[:9]
    for one in shown:
        assert counts[tuple(sorted(one.classes))] == one.wrong
        assert one.queries == np.isin(found.query_classes, one.classes).sum()
        assert 1 <= len(one.examples) <= 2
        images = [image for pair in one.examples for image in pair]
        assert len(set(images)) == len(images)
        for query, image in one.examples:
            assert {int(labels[query]), int(labels[image])} == set(one.classes)
