"""Llama 3.1 to 3.3: the answer is an object with name and parameters, perhaps behind ``<|python_tag|>``.

What Llama writes for its built-in tools (``brave_search.call(query="...")``) is text here: it calls none of the
functions that were offered.
"""

from flyweight.serving.tools.shape import CallShape
from flyweight.serving.tools.tool_format import ToolFormat

LLAMA3 = ToolFormat(
    name="llama3",
    recognises=lambda template: (
        '"parameters": ' in template and "<|start_header_id|>" in template and "ipython" in template
    ),
    shape=CallShape(opening="<|python_tag|>", at_start=True, separator=";", argument_keys=("parameters", "arguments")),
    marks=("<|python_tag|>",),
)
