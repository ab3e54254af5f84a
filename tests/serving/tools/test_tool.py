"""Tools and tool_choice of a request: each field is understood or refused by name."""

import pytest

from flyweight.errors import UsageError
from flyweight.serving.tools.tool import ToolChoice, read_choice, read_tools


def offered(**function):
    return [{"type": "function", "function": {"name": "f", **function}}]


def test_what_is_understood():
    assert read_tools(None) == ()
    [tool] = read_tools(offered(description=None, strict=True))
    assert (tool.name, tool.description, tool.strict) == ("f", "", True)
    assert tool.parameters == {"type": "object", "properties": {}}
    assert tool.to_template()["function"]["name"] == "f"
    assert read_choice(None, ()) == ToolChoice(kind="none")
    assert read_choice(None, [tool]) == ToolChoice(kind="auto")
    assert read_choice("required", [tool]).is_forced
    named = read_choice({"type": "function", "function": {"name": "f"}}, [tool])
    assert named == ToolChoice(kind="named", name="f")


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("f", "tools must be a list of at most 128 functions"),
        (offered() * 129, "tools must be a list of at most 128 functions"),
        (offered() * 2, r"tools\[1\] has the name 'f' of an earlier one"),
        ([{"function": {}}], r"tools\[0\] must be"),
        (offered(parms={}), r"tools\[0\].function has an unknown field 'parms'; did you mean"),
        (offered(name="a b"), r"tools\[0\].function.name must be 1 to 64 letters"),
        (offered(parameters=[]), "parameters must be a JSON schema, an object"),
        (offered(strict="yes"), "strict a boolean"),
    ],
)
def test_what_tools_cannot_be(tools, message):
    with pytest.raises(UsageError, match=message):
        read_tools(tools)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("any", "tool_choice='any' is unknown; choose auto, none, required or a function"),
        ({"type": "function", "function": {"name": "g"}}, "names the function 'g', which is not in tools"),
        ({"type": "function"}, "tool_choice must be auto, none, required or"),
        (3, "tool_choice must be auto"),
    ],
)
def test_what_a_choice_cannot_be(choice, message):
    with pytest.raises(UsageError, match=message):
        read_choice(choice, read_tools(offered()))


def test_required_needs_tools():
    with pytest.raises(UsageError, match="tool_choice='required' needs tools"):
        read_choice("required", ())
