"""Which family a model's chat template belongs to."""

from flyweight.serving.tools.command_r import COMMAND_R, COMMAND_R7B
from flyweight.serving.tools.deepseek_r1 import DEEPSEEK_R1
from flyweight.serving.tools.demo import DEMO
from flyweight.serving.tools.firefunction import FIREFUNCTION
from flyweight.serving.tools.functionary import FUNCTIONARY_31, FUNCTIONARY_32
from flyweight.serving.tools.hermes import HERMES
from flyweight.serving.tools.llama3 import LLAMA3
from flyweight.serving.tools.mistral import MISTRAL
from flyweight.serving.tools.mistral_v11 import MISTRAL_V11
from flyweight.serving.tools.phi4_mini import PHI4_MINI
from flyweight.serving.tools.pythonic import PYTHONIC
from flyweight.serving.tools.tool_format import ToolFormat

# The first that recognises a template is taken: the more particular marks come first.
FORMATS = (
    DEEPSEEK_R1,
    MISTRAL_V11,
    MISTRAL,
    COMMAND_R7B,
    COMMAND_R,
    FUNCTIONARY_32,
    FUNCTIONARY_31,
    FIREFUNCTION,
    PHI4_MINI,
    HERMES,
    PYTHONIC,
    LLAMA3,
    DEMO,
)


def tool_format_for(template: str) -> ToolFormat | None:
    """The family of a chat template, by its Jinja text; None where it is of none that is known."""
    return next((one for one in FORMATS if one.recognises(template)), None)
