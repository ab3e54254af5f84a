"""What can be said of a model whose architecture is not known: which of its tensors are linear layers.

It sees names and shapes only. Compression without calibration data needs no more; nothing can be run with it.
"""

import re
from collections.abc import Mapping

from flyweight.models.spec import LinearSpec

# Tables that are looked up rather than multiplied, heads, routers and norms, by the words of their module path.
NOT_LINEAR = re.compile(
    r"embed|^wte$|^wpe$|^shared$|relative_attention_bias|position|lm_head|^output$|^score$|classifier|norm|^ln"
    r"|^router$|^gate$|shared_expert_gate"
)


def linears_without_spec(shapes: Mapping[str, tuple[int, ...]]) -> tuple[LinearSpec, ...]:
    """The tensors that look like linear layers of shape (out_features, in_features), in the order given.

    A layer is a two-dimensional ``*.weight`` with more than one row and column whose path names no embedding,
    head, norm or router. Where a bias of another length than out_features lies beside it the weight is stored
    transposed (GPT-2's Conv1D); every layer of that last name is then left alone, since square ones do not tell.
    """
    candidates = []
    transposed = set()
    for tensor, shape in shapes.items():
        name = tensor.removesuffix(".weight")
        if name == tensor or len(shape) != 2 or min(shape) < 2:
            continue
        parts = name.split(".")
        if NOT_LINEAR.search(parts[-1]) or _is_table(parts):
            continue
        bias = shapes.get(f"{name}.bias")
        if bias is not None and bias != (shape[0],):
            transposed.add(parts[-1])
            continue
        candidates.append(LinearSpec(name=name, in_features=shape[1], out_features=shape[0], bias=bias is not None))
    return tuple(linear for linear in candidates if linear.name.split(".")[-1] not in transposed)


def _is_table(parts: list[str]) -> bool:
    """Whether the path leads through an embedding module (``embeddings.word_embeddings``)."""
    return any("embed" in part for part in parts)
