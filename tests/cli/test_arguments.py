"""Words that no command takes."""

import pytest

from flyweight.cli import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["bench", "compare", "model", "--tasks", "depth-0", "start"],
            "nothing takes 'start'; an option takes one value at a time: repeat --tasks before each",
        ),
        (["evaluate", "model", "a", "b"], "nothing takes 'a' 'b' (see"),
    ],
)
def test_words_that_nothing_takes(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
