#include "operations/shared_keys.h"

#include <algorithm>

namespace flyweight {
namespace {

struct Candidate {
  int32_t sequence;
  int64_t blocks; // that it shares with the first of its kind
};

// Blocks at the beginning that both hold and that are full in both.
int64_t common_blocks(const AttendArguments &a, int32_t one, int32_t other) {
  const int32_t *x = a.block_tables + one * a.max_blocks, *y = a.block_tables + other * a.max_blocks;
  const int64_t full = std::min(a.context_lengths[one], a.context_lengths[other]) / a.layout.block_size;
  return std::mismatch(x, x + full, y).first - x;
}

// Takes one group, where there is one, out of the sequences that begin with the same block.
void take_group(const AttendArguments &a, std::vector<int32_t> &left, int64_t most_sequences, std::vector<SharedGroup> &groups) {
  std::vector<Candidate> alike{{left.front(), a.context_lengths[left.front()] / a.layout.block_size}};
  std::vector<int32_t> others;
  for (size_t i = 1; i < left.size(); ++i) {
    const int64_t blocks = common_blocks(a, left.front(), left[i]);
    if (blocks * a.layout.block_size >= kKeyTile) alike.push_back({left[i], blocks});
    else others.push_back(left[i]);
  }
  // Of those that begin like the first, as many as save most reading: the more, the less they have in common.
  std::stable_sort(alike.begin(), alike.end(), [](const Candidate &x, const Candidate &y) { return x.blocks > y.blocks; });
  // Whole tiles: a result depends on where these begin.
  const auto keys_of = [&](size_t count) { return alike[count - 1].blocks * a.layout.block_size / kKeyTile * kKeyTile; };
  const auto saved = [&](size_t count) { return static_cast<int64_t>(count - 1) * keys_of(count); };
  size_t best = 1;
  for (size_t count = 2; count <= alike.size(); ++count)
    if (saved(count) > saved(best)) best = count;
  const int64_t key_end = keys_of(best);
  for (size_t begin = 0, end; begin + 1 < best; begin = end) {
    end = std::min(best, begin + static_cast<size_t>(most_sequences));
    groups.push_back({{}, key_end});
    for (size_t i = begin; i < end; ++i) groups.back().sequences.push_back(alike[i].sequence);
  }
  for (size_t i = best; i < alike.size(); ++i) others.push_back(alike[i].sequence);
  left = std::move(others);
}

} // namespace

std::vector<SharedGroup> find_shared_keys(const AttendArguments &a, int64_t num_sequences, int64_t most_sequences) {
  std::vector<SharedGroup> groups;
  if (a.window > 0 || most_sequences < 2) return groups;
  std::vector<int32_t> sequences;
  for (int32_t sequence = 0; sequence < num_sequences; ++sequence)
    if (a.query_starts[sequence + 1] - a.query_starts[sequence] == 1 && a.context_lengths[sequence] >= kKeyTile) sequences.push_back(sequence);
  const auto first_block = [&](int32_t sequence) { return a.block_tables[sequence * a.max_blocks]; };
  std::stable_sort(sequences.begin(), sequences.end(), [&](int32_t x, int32_t y) { return first_block(x) < first_block(y); });
  for (auto begin = sequences.begin(), end = begin; begin != sequences.end(); begin = end) {
    end = std::find_if(begin, sequences.end(), [&](int32_t sequence) { return first_block(sequence) != first_block(*begin); });
    for (std::vector<int32_t> left(begin, end); left.size() > 1;) take_group(a, left, most_sequences, groups);
  }
  return groups;
}

} // namespace flyweight
