"""What a person sees of a run: a panel on a terminal, lines in a log."""

import io

import pytest
from rich.console import Console

from experiments.training.harness import display, pace
from experiments.training.harness.display import Live, percent, shown

RECORD = {
    "loss": 1.2344,
    "sharpness": 0.01204,
    "gradient_norm": 0.8765,
    "learning_rate": 0.0999,
    "examples_per_second": 1234.4,
}
EVALUATION = {
    "step": 1173,
    "epoch": 3,
    "train_accuracy": 0.461,
    "validation_accuracy": 0.4512,
    "test_accuracy": 0.448,
}
HIDDEN, VISIBLE = "\x1b[?25l", "\x1b[?25h"


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [1000.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


def test_a_log_has_a_line_for_each_evaluation_and_the_result(clock):
    out = io.StringIO()
    with Live(Console(file=out, width=40), "title", 78200, 391, first_step=1000) as live:
        live.step(1050, RECORD)
        clock[0] += 1
        live.step(1150, RECORD)
        live.evaluated(EVALUATION)
        live.finished("test accuracy 44.8% of [some] text that is longer than the console")
    assert out.getvalue() == (
        "epoch 3/200, step 1173/78200: loss 1.234, sharpness 0.0120, validation 45.1%, "
        "test 44.8%, 1,234 examples/s, about 13 min left\n"
        "test accuracy 44.8% of [some] text that is longer than the console\n"
    )


def test_a_log_leaves_out_what_nobody_knows():
    out = io.StringIO()
    with Live(Console(file=out), "title", 1173, 391) as live:
        live.evaluated({**EVALUATION, "validation_accuracy": None})
        live.step(1173, {"loss": float("nan"), "sharpness": None})
        live.evaluated({**EVALUATION, "validation_accuracy": None})
    assert out.getvalue() == (
        "epoch 3/3, step 1173/1173: test 44.8%\n"
        "epoch 3/3, step 1173/1173: loss nan, test 44.8%\n"
    )


@pytest.mark.parametrize("width", [80, 100])
def test_a_terminal_shows_all_numbers(clock, width):
    with Live(_terminal(width), "CIFAR-10, SAM", 78200, 391) as live:
        assert "epoch 1/200, step 0/78,200" in _panel(live)
        assert "0%, compiling" in _panel(live)
        live.step(1100, RECORD)
        assert "compiling" not in _panel(live)
        assert "left" not in _panel(live)
        clock[0] += 10
        live.step(1174, RECORD)
        live.evaluated(EVALUATION)
        lines = _panel(live).splitlines()
    assert max(map(len, lines)) == width
    # (78200 - 1174) steps at 74 in 10 s.
    assert _cells(lines[1]) == "epoch 4/200, step 1,174/78,200 1%, about 2.9 h left"
    assert "CIFAR-10, SAM" in lines[0]
    assert _cells(lines[3]) == "loss sharpness gradient norm learning rate examples/s"
    assert _cells(lines[4]) == "1.234 0.0120 0.876 0.0999 1,234"
    assert _cells(lines[6]) == "accuracy train validation test"
    assert _cells(lines[7]) == "epoch 3 46.1% 45.1% 44.8%"


def test_dashes_where_the_method_knows_nothing():
    with Live(_terminal(80), "SGD", 100, 10) as live:
        live.step(10, {**RECORD, "sharpness": None, "examples_per_second": None})
        live.evaluated({**EVALUATION, "validation_accuracy": None})
        lines = _panel(live).splitlines()
    dash = display.UNKNOWN
    assert _cells(lines[4]) == f"1.234 {dash} 0.876 0.0999 {dash}"
    assert _cells(lines[7]) == f"epoch 3 46.1% {dash} 44.8%"


def test_the_result_stands_below_the_panel():
    terminal = _terminal(80)
    with Live(terminal, "SAM", 100, 10) as live:
        live.step(100, RECORD)
        live.finished("test accuracy 95.3%")
    text = _text(terminal)
    assert text.rindex("100%") < text.rindex("test accuracy 95.3%")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_terminal_as_it_was(error):
    terminal = _terminal(80)
    with pytest.raises(error, match="broke"):
        _fail(terminal, error("broke"))
    text = _text(terminal)
    assert text.count(HIDDEN) == 1
    assert text.rindex(VISIBLE) > text.rindex(HIDDEN)
    terminal.print("after")
    assert _text(terminal).endswith("after\n")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_other_processes_are_quiet(is_terminal):
    console = Console(file=io.StringIO(), force_terminal=is_terminal)
    with Live(console, "SAM", 100, 10, quiet=True) as live:
        live.step(10, RECORD)
        live.evaluated(EVALUATION)
        live.finished("done")
    assert _text(console) == ""


def test_time_left_ignores_earlier_processes_and_compilation(clock):
    with Live(Console(file=io.StringIO()), "SAM", 1000, 10, first_step=500) as live:
        clock[0] += 3600
        live.step(510, RECORD)
        assert live._pace.left() == ""
        clock[0] += 5
        live.step(520, RECORD)
        assert live._pace.left() == "about 4 min left"
        live.step(1000, RECORD)
        assert live._pace.left() == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, display.UNKNOWN),
        (0.0, "0"),
        (1.0, "1.000"),
        (12345.6, "1.2e+04"),
        (1234.4, "1234"),
        (0.05, "0.0500"),
        (-0.0123, "-0.0123"),
        (0.001, "0.00100"),
        (3.14e-7, "3.1e-07"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_of_any_size_are_short(value, text):
    assert shown(value) == text


def test_percent():
    assert percent(0.98765) == "98.8%"
    assert percent(None) == display.UNKNOWN


def _terminal(width):
    return Console(
        file=io.StringIO(), width=width, force_terminal=True, legacy_windows=False
    )


def _text(console):
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _fail(terminal, error):
    with Live(terminal, "SAM", 100, 10) as live:
        live.step(10, RECORD)
        raise error


def _panel(live):
    console = Console(file=io.StringIO(), width=live._console.width)
    console.print(live._panel())
    return _text(console)


def _cells(line):
    return " ".join(line.strip("│").split())
