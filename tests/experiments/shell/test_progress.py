"""Progress: lines in a log, a moving bar on a terminal."""

import io

from rich.console import Console

from experiments.shell.progress import Display


def test_a_log_has_one_line_for_each_part():
    out = io.StringIO()
    with Display(Console(file=out, width=40), parts=2) as display:
        for title in ("first", "second"):
            display.begin(title, steps=3)
            display.advance(2)
            display.advance(1, accuracy=0.5)
            display.end("a long result that is wider than the console")
    first, second = out.getvalue().splitlines()
    assert first.startswith("[1/2] first: a long result that is wider than the console, ")
    assert first.endswith(" s left")
    assert second.startswith("[2/2] second: a long result")
    assert "left" not in second


def test_a_terminal_shows_accuracy_and_time_left():
    out = io.StringIO()
    terminal = Console(file=out, width=120, force_terminal=True)
    with Display(terminal, parts=2) as display:
        display.begin("SAM", steps=4)
        assert "compiling" in _shown(display)
        display.advance(2, accuracy=0.987)
        shown = _shown(display)
        assert "SAM" in shown
        assert "2/4 steps" in shown
        assert "validation 98.7%" in shown
        assert "left" in shown
        display.end("done")
    assert "done" in out.getvalue()


def _shown(display):
    out = io.StringIO()
    Console(file=out, width=120).print(display._bar.get_renderable())
    return out.getvalue()
