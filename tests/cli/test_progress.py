"""The progress bar: what it shows at each width, and the lines where no terminal is."""

import logging

import pytest

from lookalike import log
from lookalike.log import Bar, clock, counted


@pytest.fixture
def now(monkeypatch):
    """The seconds that the clock shows; to be set."""
    time = [0.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: time[0])
    monkeypatch.setattr(log, "is_terminal", lambda: False)
    return time


def training(now, *, done=1234, total=100_000, seconds=3725.0):
    now[0] = 0.0
    bar = Bar("training", total, unit="steps")
    with bar:
        now[0] = seconds
        bar.advance(done, note="loss 12.345, 3 % waiting for images", rate="1,512 images/s")
    return bar


def test_at_40_columns_the_essentials_are_whole(now):
    assert training(now).line(39) == "1234/100000 1h02m 82h48m left 1512/s"
    short = training(now, done=12, total=900, seconds=65.0)
    assert short.line(39) == "training 12/900 1:05 1h20m left 1512/s"


def test_at_80_columns_rate_and_loss_follow(now):
    assert training(now).line(79) == (
        "training  1,234/100,000  1h02m  82h48m left  1,512 images/s  loss 12.345"
    )


def test_at_120_columns_there_is_a_bar(now):
    bar = training(now, done=50_000)
    bar.note = "loss 12.345"
    line = bar.line(119)
    drawn = line.split("  ")[1]
    assert set(drawn) == {"\u2501", "\u2500"}
    assert drawn.count("\u2501") == len(drawn) // 2
    assert len(line) <= 119
    assert set(bar.line(119, ascii_only=True).split("  ")[1]) == {"#", "-"}


@pytest.mark.parametrize(
    "width", [10, 20, 30, 38, 39, 40, 45, 50, 60, 70, 79, 80, 100, 119, 150, 200]
)
def test_nothing_is_cut_at_any_width(now, width):
    bar = training(now)
    line = bar.line(width)
    assert len(line) <= width
    assert "\u2026" not in line
    whole = {
        "training", "1,234/100,000", "1234/100000", "1h02m", "82h48m left", "1,512 images/s",
        "1512/s", bar.note, "loss 12.345",
    }  # fmt: skip
    for part in sorted(whole, key=len, reverse=True):
        line = line.replace(part, "")
    assert set(line) <= {"\u2501", "\u2500", " "}


def test_without_a_terminal_there_is_a_line_each_ten_seconds(now, caplog):
    with caplog.at_level(logging.INFO, "lookalike"), Bar("training", 1000, unit="steps") as bar:
        for step in range(1, 251):
            now[0] = step / 10
            bar.advance(note="loss 1.500", rate="80 images/s")
    assert caplog.messages == [
        "training: 100 of 1,000 steps, 10 s, 1 min 30 s left, 80 images/s, loss 1.500",
        "training: 200 of 1,000 steps, 20 s, 1 min 20 s left, 80 images/s, loss 1.500",
    ]


def test_the_rate_is_that_of_this_process(now):
    with Bar("embedding", 1000, done=900, unit="images") as bar:
        now[0] = 10.0
        bar.advance(50)
        assert bar.line(200).endswith("950/1,000  0:10  0:10 left  5.0 images/s")
        now[0] = 12.0
        bar.advance(50)
        assert "1,000/1,000  0:12  0:00 left" in bar.line(200)


def test_before_the_first_step_nothing_is_claimed(now):
    with Bar("images", 10, unit="images") as bar:
        assert "0/10  0:00  -:-- left" in bar.line(60)
    with Bar("images", 0, unit="images") as bar:
        assert bar.line(60).startswith("images")


def test_clocks_and_counts():
    assert [clock(s) for s in (0, 59.6, 3599, 3600, 359_999, 360_000, float("inf"))] == [
        "0:00", "1:00", "59:59", "1h00m", "99h59m", "4d04h", "-:--",
    ]  # fmt: skip
    assert counted(1, "class", "classes") == "1 class"
    assert counted(1200, "class", "classes") == "1,200 classes"
    assert counted(0, "image") == "0 images"
