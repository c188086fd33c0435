"""Effects of other values than the recipe's, as the report of a run has them."""

from lookalike.config.config import keys
from lookalike.planning import study_effects
from lookalike.planning.study_effects import StudyEffect, effects_of


def effect(key, value, regime, name, recall_at_1, map_at_r):
    bounds = ([each, each - 1, each + 1] for each in (recall_at_1, map_at_r))
    return StudyEffect(key, value, regime, name, *bounds)


def test_the_effects_of_a_setting_are_those_of_such_weights_and_other_values(monkeypatch):
    found = (
        effect("data.flip", "0", "lite0", "cards", 2.1, -0.25),
        effect("data.flip", "0", "lite2", "flags", 0.0, 1.0),
        effect("data.flip", "0.5", "lite0", "logos", -1.9, -3.1),
        effect("data.flip", "0", "scratch", "logos", 9.0, 9.0),
        effect("train.interpolate", "false", "lite0", "logos", 0.3, 0.3),
    )
    monkeypatch.setattr(study_effects, "study_effects", lambda: found)
    assert effects_of("data.flip", "0.5", pretrained=True) == [
        "0: +2.1 / \N{MINUS SIGN}0.2 on cards, +0.0 / +1.0 on flags"
    ]
    assert effects_of("data.flip", "0", pretrained=True) == [
        "0.5: \N{MINUS SIGN}1.9 / \N{MINUS SIGN}3.1 on logos"
    ]
    assert effects_of("data.flip", "0.5", pretrained=False) == ["0: +9.0 / +9.0 on logos"]
    assert effects_of("train.interpolate", "yes", pretrained=True) == ["no: +0.3 / +0.3 on logos"]
    assert effects_of("train.interpolate", "no", pretrained=True) == []
    assert effects_of("data.min_crop", "0.75", pretrained=True) == []


def test_the_study_measured_settings_that_exist():
    found = study_effects.study_effects()
    assert {each.key for each in found} <= set(keys())
    for each in found:
        for value, low, high in (each.recall_at_1, each.map_at_r):
            assert low <= value <= high
