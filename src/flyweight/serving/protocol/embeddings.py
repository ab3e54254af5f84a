"""/v1/embeddings: its body."""

from typing import Annotated, Literal

from pydantic import Field

from flyweight.serving.asks import Prompt, Text, TokenIds
from flyweight.serving.protocol.body import Body
from flyweight.serving.protocol.completions import Ids, ManyIds, Texts
from flyweight.serving.protocol.sampling import LARGEST_TOKEN, Name


class EmbeddingBody(Body):
    """Texts, or token ids, each of which becomes a vector."""

    model: Name | None = None
    input: str | Texts | Ids | ManyIds
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=LARGEST_TOKEN)] | None = None
    user: Name | None = Field(None, description="not used")

    def prompts(self) -> list[Prompt]:
        """What becomes vectors."""
        if isinstance(self.input, str):
            return [Text(text=self.input)]
        found: list[Prompt] = []
        ids: list[int] = []
        for one in self.input:
            if isinstance(one, str):
                found.append(Text(text=one))
            elif isinstance(one, int):
                ids.append(one)
            else:
                found.append(TokenIds(ids=one))
        return found or [TokenIds(ids=ids)]
