"""Progress: a bar on a terminal, lines elsewhere, silence in the library."""

import io

from rich.console import Console

from flyweight.progress import Bar, Silent


def test_bar_on_a_terminal_shows_stage_count_and_note():
    screen = io.StringIO()
    with Bar(Console(file=screen, force_terminal=True, width=120)) as bar:
        bar.start("compress", 3, done=1)
        bar.advance(note="model.layers.1")
        bar.advance()
    assert "compress" in screen.getvalue()
    assert "3/3" in screen.getvalue()


def test_elsewhere_one_line_per_stage(capsys):
    with Bar(Console(file=io.StringIO(), force_terminal=False)) as bar:
        bar.start("evaluate", 7)
        bar.advance()
    assert capsys.readouterr().err == "evaluate: 7 steps\n"


def test_silent_is_silent(capsys):
    silent = Silent()
    silent.start("x", 1)
    silent.advance()
    silent.finish()
    assert capsys.readouterr() == ("", "")
