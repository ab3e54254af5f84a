// The table of this instruction set's kernels; the includer defines FLYWEIGHT_ISA_NAME.

const KernelTable &kernels() {
  static constexpr KernelTable table{
      .name = FLYWEIGHT_ISA_NAME,
      .prepare_input = prepare_input,
      .linear = linear,
      .linear_workspace = linear_workspace,
      .panels_per_tile = kFewRowsPanels > kWidePanels ? kFewRowsPanels : kWidePanels,
      .most_rows_per_task = 480, // one pass over their inputs then fits in a second-level cache of 1 MiB
      .rms_norm = rms_norm,
      .rope = rope,
      .act_mul = act_mul,
      .add = add_scaled,
      .cap = cap,
      .cache_write = cache_write,
      .attend = attend,
      .attend_merge = attend_merge,
      .attend_partial_floats = partial_floats,
      .attend_workspace = attend_workspace,
      .round_weights = round_weights,
      .gptq_group = gptq_group,
      .gptq_workspace = gptq_workspace,
      .gram_packed_bytes = gram_packed_bytes,
      .gram_pack = gram_pack,
      .gram = gram,
      .gram_workspace = gram_workspace,
      .read_all = read_all,
      .multiply_int4 = multiply_int8, // codes of four bits, one a byte, meet the same instruction
      .multiply_int8 = multiply_int8,
      .multiply_bfloat16 = multiply_bfloat16,
      .sample = sample,
      .sample_workspace = sample_workspace,
  };
  return table;
}
