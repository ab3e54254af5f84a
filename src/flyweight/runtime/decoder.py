"""The only forward pass. It walks a ModelSpec and calls an Ops; no model is written anywhere else.

It knows neither weights, nor devices, nor how attention finds its keys.
"""

from typing import Any

from flyweight.models.spec import AttentionSpec, BlockSpec, MlpSpec, ModelSpec, NormSpec
from flyweight.runtime.batch import Batch
from flyweight.runtime.ops import Ops


def run_model(spec: ModelSpec, ops: Ops, batch: Batch) -> Any:
    """Logits (outputs, vocab_size) of the batch's ``output_rows``."""
    return run_head(spec, ops, run_blocks(spec, ops, batch))


def run_blocks(spec: ModelSpec, ops: Ops, batch: Batch) -> Any:
    """What the head reads: the residual stream (outputs, hidden_size) of ``output_rows`` after all blocks.

    After the last attention no token needs another, so the rest is computed for the wanted rows only.
    """
    x = ops.embed(spec.embedding, batch.token_ids)
    *earlier, last = spec.blocks
    for block in earlier:
        x = run_block(block, ops, x, batch)
    context = mix_heads(last.attention, last.index, ops, attention_input(last, ops, x), batch)
    return finish_block(last, ops, x[batch.output_rows], context[batch.output_rows])


def run_block(block: BlockSpec, ops: Ops, x: Any, batch: Batch) -> Any:
    """One decoder layer on the residual stream ``x`` (tokens, hidden_size).

    The stages are functions of their own because calibration stops between them.
    """
    return finish_block(
        block, ops, x, mix_heads(block.attention, block.index, ops, attention_input(block, ops, x), batch)
    )


def finish_block(block: BlockSpec, ops: Ops, x: Any, context: Any) -> Any:
    """What follows the mixing of heads, row by row, on any rows of the residual stream and of ``mix_heads``."""
    x = add_attention(block, ops, x, ops.linear(block.attention.output, context))
    gated = gate(block.mlp, ops, mlp_input(block, ops, x))
    return add_mlp(block, ops, x, ops.linear(block.mlp.down, gated))


def attention_input(block: BlockSpec, ops: Ops, x: Any) -> Any:
    """What queries, keys and values are made from: (tokens, hidden_size)."""
    return _norm(ops, block.input_norm, x)


def mix_heads(attention: AttentionSpec, layer: int, ops: Ops, x: Any, batch: Batch) -> Any:
    """Attention up to its output projection: (tokens, hidden_size) -> (tokens, num_heads * head_dim)."""
    qkv = ops.linear(attention.qkv, x)
    q_size, kv_size = attention.num_heads * attention.head_dim, attention.num_kv_heads * attention.head_dim
    q = _heads(ops, attention.query_norm, qkv[:, :q_size], attention.head_dim)
    k = _heads(ops, attention.key_norm, qkv[:, q_size : q_size + kv_size], attention.head_dim)
    v = _heads(ops, None, qkv[:, q_size + kv_size :], attention.head_dim)
    if attention.rope is not None:
        q, k = ops.rope(attention.rope, q, batch), ops.rope(attention.rope, k, batch)
    return ops.attend(attention, layer, q, k, v, batch)


def add_attention(block: BlockSpec, ops: Ops, x: Any, y: Any) -> Any:
    """The residual stream after attention whose output projection gave ``y``."""
    return ops.add(x, _norm(ops, block.post_attention_norm, y), block.residual_scale)


def mlp_input(block: BlockSpec, ops: Ops, x: Any) -> Any:
    """What gate and up read: (tokens, hidden_size)."""
    return _norm(ops, block.pre_mlp_norm, x)


def gate(mlp: MlpSpec, ops: Ops, x: Any) -> Any:
    """The feed-forward up to its down projection: (tokens, hidden_size) -> (tokens, intermediate size)."""
    return ops.act_mul(mlp.activation, ops.linear(mlp.gate_up, x))


def add_mlp(block: BlockSpec, ops: Ops, x: Any, y: Any) -> Any:
    """The residual stream after a feed-forward whose down projection gave ``y``."""
    return ops.add(x, _norm(ops, block.post_mlp_norm, y), block.residual_scale)


def run_head(spec: ModelSpec, ops: Ops, x: Any) -> Any:
    """Final norm and output head: (rows, hidden_size) -> logits (rows, vocab_size)."""
    return ops.cap(ops.linear(spec.head, ops.norm(spec.final_norm, x)), spec.logit_scale, spec.logit_softcap)


def _norm(ops: Ops, norm: NormSpec | None, x: Any) -> Any:
    return x if norm is None else ops.norm(norm, x)


def _heads(ops: Ops, norm: NormSpec | None, x: Any, head_dim: int) -> Any:
    """Split features into heads, applying the norm over all heads at once or per head by its size."""
    tokens, size = x.shape
    if norm is not None and norm.size == size:
        x = ops.norm(norm, x)
    heads = x.reshape(tokens, size // head_dim, head_dim)
    if norm is not None and norm.size == head_dim and size != head_dim:
        heads = ops.norm(norm, heads)
    return heads
