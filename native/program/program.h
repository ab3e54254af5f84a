// A model's whole step as a list of instructions, run in one call for any number of tokens.
//
// It knows no model: whoever built it says what to compute and where each matrix of activations lies. It computes
// nothing itself: every instruction is an operation of operations.h or a kernel of the table.
#pragma once

#include <cstdint>
#include <mutex>
#include <variant>
#include <vector>

#include "aligned_buffer.h"
#include "kernel_table.h"
#include "linear_handle.h"

namespace flyweight {

// Matrices have a row for each token of the step or for each wanted output. The two arenas are the program's own; hidden
// rows and logits are the caller's.
enum class Region : int32_t { kTokens, kOutputs, kHidden, kLogits };

// A matrix: its buffer begins at `offset` numbers per row of the region, has rows of `stride` numbers, and the matrix
// begins at `column` of them. With n rows it thus lies at offset * n + column.
struct Place {
  Region region;
  int64_t offset, stride, column;
};

namespace instruction {

struct Embed {
  const void *table; // vocabulary x width; null: its rows are read from a file, from byte `offset` of `descriptor` on
  int descriptor;
  int64_t offset;
  Storage storage;   // a floating point one
  int64_t vocabulary, width;
  float scale;
  Place out;
};

struct Linear {
  const LinearHandle *handle;
  const float *bias; // or null
  Place x, out;
};

// Each of `heads` parts of a row: a norm unless `weight` is null, a rotation unless `rope` is negative, else a copy.
struct Heads {
  Place x, out;
  int64_t heads, head_dim;
  const float *weight;
  float epsilon, weight_offset;
  int64_t rope, rotary_dim;
};

struct Attend {
  Place q, k, v, out;        // each without gaps
  AttendArguments arguments; // what does not change from step to step
  void *cache;
  int64_t num_blocks;
};

struct ActMul {
  Place x, out;
  int64_t width; // of out
  Activation activation;
};

struct Add {
  Place x, y, out;
  int64_t width;
  float scale;
};

struct Cap {
  Place x, out;
  int64_t width;
  float scale, softcap;
};

// The rows that are wanted, from tokens to outputs.
struct Select {
  Place x, out;
  int64_t width;
};

} // namespace instruction

using Instruction = std::variant<instruction::Embed, instruction::Linear, instruction::Heads, instruction::Attend,
                                 instruction::ActMul, instruction::Add, instruction::Cap, instruction::Select>;

// Cosines and sines of one rotation: table_rows x rotary_dim / 2; token i is rotated by row rows[i].
struct RopeTable {
  const float *cosine, *sine;
  int64_t table_rows;
  const int32_t *rows;
};

struct Step {
  int64_t tokens, outputs, sequences, max_blocks;
  const int32_t *token_ids;       // tokens
  const int32_t *query_starts;    // sequences + 1
  const int32_t *context_lengths; // sequences
  const int32_t *block_tables;    // sequences x max_blocks
  const int64_t *slots;           // tokens
  const int64_t *output_rows;     // outputs
  const RopeTable *ropes;
  float *hidden, *logits;         // outputs x their widths
  double *seconds;                // where each instruction's time is added, or null
};

class Program {
public:
  void append(Instruction one);
  // What follows is the head: it reads hidden rows only.
  void begin_head() { head_ = instructions_.size(); }
  size_t size() const { return instructions_.size(); }

  // Whether ids, slots, blocks, rows and lengths of a step lie within the program's tables and caches.
  bool accepts(const Step &step) const;

  // Throws std::runtime_error where a file that rows are read from has become shorter or cannot be read.
  void run(const Step &step) { run(step, 0, instructions_.size()); }
  void run_body(const Step &step) { run(step, 0, head_); }
  void run_head(const Step &step) { run(step, head_, instructions_.size()); }

private:
  void run(const Step &step, size_t begin, size_t end);

  std::vector<Instruction> instructions_;
  size_t head_ = 0;
  int64_t arena_width_[2] = {0, 0}; // numbers per token and per output
  AlignedBuffer arenas_[2];
  std::mutex mutex_; // one step at a time: it owns the arenas
};

} // namespace flyweight
