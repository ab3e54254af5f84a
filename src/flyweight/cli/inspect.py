"""``flyweight inspect``: what is in this checkpoint?"""

from typing import Annotated

from cyclopts import Parameter

from flyweight.evaluation.inspection import Inspection, inspect_model
from flyweight.reporting import Table, format_bytes, open_console, print_table


def inspect(model: str, *, layers: bool = True, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Show what a checkpoint is: architecture, rope and attention, and each layer's format, bits and bytes.

    Only the config and the headers are read.

    Examples:

        flyweight inspect small/

        flyweight inspect small/ --no-layers

        flyweight inspect small/ --json

    Parameters
    ----------
    model
        Folder or hub id of the model.
    layers
        List every layer.
    json
        Print everything as JSON.
    """
    found = inspect_model(model)
    if json:
        print(found.to_json())
        return 0
    console = open_console()
    for table in _tables(found, layers=layers):
        print_table(table, console)
        console.print()
    if found.unused_tensors:
        console.print(
            f"{len(found.unused_tensors)} tensors that the model has no place for, such as {found.unused_tensors[0]}",
            markup=False,
        )
    return 0


def _tables(found: Inspection, *, layers: bool) -> list[Table]:
    formats = ", ".join(f"{count} x {name}" for name, count in found.formats.items())
    rows = [
        ("architecture", found.architecture),
        ("weights", f"{found.num_weights:,} in {format_bytes(found.weight_bytes)}"),
        ("linear layers of the blocks", f"{formats}; {format_bytes(found.linear_bytes)}"),
        ("bits per weight of these", f"{found.bits_per_weight:.3f}"),
        ("embedding", f"{format_bytes(found.embedding_bytes)}{', tied to the head' if found.is_tied else ''}"),
        ("blocks, hidden size, vocabulary", f"{found.num_blocks}, {found.hidden_size}, {found.vocab_size}"),
        ("context", f"{found.max_positions} tokens"),
        ("KV cache", f"{format_bytes(2 * found.kv_values_per_token)} a token in 16 bits"),
    ]
    for kind in found.attention:
        window = f", window {kind.window}" if kind.window else ""
        softcap = f", soft cap {kind.softcap:g}" if kind.softcap else ""
        rows.append(
            (
                f"attention of {len(kind.blocks)} blocks from {kind.blocks[0]}",
                f"{kind.num_heads} heads, {kind.num_kv_heads} of keys and values, {kind.head_dim} wide"
                f"{window}{softcap}; rope {kind.rope}",
            )
        )
    tables = [Table(title=found.folder, columns=("", ""), rows=tuple(rows), num_labels=2)]
    if layers:
        tables.append(
            Table(
                title="Layers",
                columns=("layer", "format", "activations", "out x in", "bits/weight", "bytes"),
                rows=tuple(
                    (
                        layer.name,
                        layer.format,
                        layer.activations,
                        f"{layer.out_features} x {layer.in_features}",
                        f"{layer.bits_per_weight:.3f}",
                        f"{layer.stored_bytes:,}",
                    )
                    for layer in found.layers
                ),
                num_labels=3,
            )
        )
    return tables
