"""Stop strings: cut at the right place however the text is split, and nothing of them is shown."""

from hypothesis import given
from hypothesis import strategies as st

from flyweight.engine.stop_strings import StopStrings

letters = st.text("ab", max_size=12)


@given(pieces=st.lists(letters, max_size=8), stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_any_splitting_gives_what_the_whole_text_gives(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    places = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    expected = text[: min(places)[1]] if places else text
    watch = StopStrings(stops)
    shown = ""
    for piece in pieces:
        shown += watch.push(piece)
        assert expected.startswith(shown)
    assert (watch.matched is not None) == bool(places)
    assert shown + watch.finish() == expected


def test_the_stop_string_that_is_complete_first_wins() -> None:
    for pieces in (["baa"], ["ba", "a"], ["b", "a", "a"]):
        watch = StopStrings(["a", "baa"])
        assert "".join(watch.push(piece) for piece in pieces) == "b"
        assert watch.matched == "a"


def test_what_cannot_begin_a_stop_string_is_shown_at_once() -> None:
    watch = StopStrings(["END", "\n\n"])
    assert watch.push("the E") == "the "
    assert watch.push("N") == ""
    assert watch.push("ORMOUS\n") == "ENORMOUS"
    assert watch.push("x") == "\nx"
    assert watch.push("yEND of it") == "y"
    assert watch.matched == "END"
    assert watch.push("more") == watch.finish() == ""


def test_without_stop_strings_all_passes() -> None:
    watch = StopStrings([])
    assert watch.push("text") == "text"
    assert watch.finish() == ""
