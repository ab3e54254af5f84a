#include "program/program.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string>

#include <unistd.h>

#include "dispatch.h"
#include "operations.h"
#include "operations/scratch.h"
#include "scalar_convert.h"

namespace flyweight {
namespace {

using namespace instruction;

// Rows of a float matrix and where its parts lie, for one step.
class Activations {
public:
  Activations(const Step &step, float *tokens, float *outputs) : step_(step), bases_{tokens, outputs, step.hidden, step.logits} {}

  int64_t rows(const Place &place) const { return place.region == Region::kTokens ? step_.tokens : step_.outputs; }
  float *at(const Place &place) const { return bases_[static_cast<int>(place.region)] + place.offset * rows(place) + place.column; }

private:
  const Step &step_;
  float *bases_[4];
};

bool has_gaps(const Place &place, int64_t width) { return place.stride != width; }

void read_fully(int descriptor, void *to, int64_t bytes, int64_t offset) {
  for (char *at = static_cast<char *>(to); bytes > 0;) {
    const ssize_t done = pread(descriptor, at, static_cast<size_t>(bytes), static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) throw std::runtime_error(std::string("the file of the embedding cannot be read: ") + std::strerror(errno));
    if (done == 0) throw std::runtime_error("the file of the embedding has become shorter since it was opened");
    at += done, offset += done, bytes -= done;
  }
}

void execute(const Embed &one, const Step &step, const Activations &at) {
  float *out = at.at(one.out);
  const int64_t row_bytes = one.width * (one.storage == Storage::kFloat32 ? 4 : 2);
  std::vector<char> read(one.table ? 0 : static_cast<size_t>(row_bytes));
  for (int64_t token = 0; token < step.tokens; ++token, out += one.out.stride) {
    const int64_t first = step.token_ids[token] * row_bytes;
    const void *stored = read.data();
    if (one.table) stored = static_cast<const char *>(one.table) + first;
    else read_fully(one.descriptor, read.data(), row_bytes, one.offset + first);
    if (one.storage == Storage::kFloat32) {
      std::copy_n(static_cast<const float *>(stored), one.width, out);
    } else {
      const uint16_t *row = static_cast<const uint16_t *>(stored);
      for (int64_t i = 0; i < one.width; ++i) out[i] = one.storage == Storage::kFloat16 ? float_of_half(row[i]) : float_of_bfloat16(row[i]);
    }
    if (one.scale != 1.0f)
      for (int64_t i = 0; i < one.width; ++i) out[i] *= one.scale;
  }
}

void execute(const Linear &one, const Step &, const Activations &at) {
  linear(*one.handle, at.at(one.x), one.x.stride, at.rows(one.x), one.bias, at.at(one.out), one.out.stride);
}

void execute(const Heads &one, const Step &step, const Activations &at) {
  const int64_t width = one.heads * one.head_dim, rows = at.rows(one.x);
  const float *x = at.at(one.x);
  float *out = at.at(one.out);
  if (one.weight && one.rope < 0 && !has_gaps(one.x, width) && !has_gaps(one.out, width))
    return rms_norm(x, one.weight, out, rows * one.heads, one.head_dim, one.epsilon, one.weight_offset);
  const KernelTable &kernels = active_kernels();
  over_ranges(rows, width, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const float *from = x + row * one.x.stride;
      float *to = out + row * one.out.stride;
      if (one.weight) {
        kernels.rms_norm(from, one.weight, to, one.head_dim, one.epsilon, one.weight_offset, 0, one.heads);
        from = to;
      }
      if (one.rope >= 0) {
        const RopeTable &table = step.ropes[one.rope];
        const int64_t first = table.rows[row] * (one.rotary_dim / 2);
        kernels.rope(from, table.cosine + first, table.sine + first, to, one.heads, one.head_dim, one.rotary_dim, 0, 1);
      } else if (from != to) {
        std::copy_n(from, width, to);
      }
    }
  });
}

void execute(const Attend &one, const Step &step, const Activations &at) {
  AttendArguments a = one.arguments;
  cache_write(a.layout, at.at(one.k), at.at(one.v), one.cache, step.slots, step.tokens);
  a.q = at.at(one.q), a.out = at.at(one.out), a.cache = one.cache;
  a.max_blocks = step.max_blocks, a.block_tables = step.block_tables;
  a.query_starts = step.query_starts, a.context_lengths = step.context_lengths;
  attend(a, step.sequences);
}

void execute(const ActMul &one, const Step &, const Activations &at) {
  act_mul(at.at(one.x), at.at(one.out), one.out.stride, at.rows(one.out), one.width, one.activation);
}

void execute(const Add &one, const Step &, const Activations &at) {
  add(at.at(one.x), at.at(one.y), at.at(one.out), one.scale, at.rows(one.out) * one.width);
}

void execute(const Cap &one, const Step &, const Activations &at) {
  cap(at.at(one.x), at.at(one.out), one.scale, one.softcap, at.rows(one.out) * one.width);
}

void execute(const Select &one, const Step &step, const Activations &at) {
  const float *x = at.at(one.x);
  float *out = at.at(one.out);
  for (int64_t row = 0; row < step.outputs; ++row, out += one.out.stride) std::copy_n(x + step.output_rows[row] * one.x.stride, one.width, out);
}

template <class Number> bool lie_within(const Number *values, int64_t count, int64_t limit) {
  return std::all_of(values, values + count, [limit](Number value) { return value >= 0 && value < limit; });
}

bool accepts_one(const Embed &one, const Step &step) { return lie_within(step.token_ids, step.tokens, one.vocabulary); }

bool accepts_one(const Heads &one, const Step &step) {
  return one.rope < 0 || lie_within(step.ropes[one.rope].rows, step.tokens, step.ropes[one.rope].table_rows);
}

bool accepts_one(const Attend &one, const Step &step) {
  const int64_t block = one.arguments.layout.block_size;
  return lie_within(step.slots, step.tokens, one.num_blocks * block) &&
         lie_within(step.block_tables, step.sequences * step.max_blocks, one.num_blocks) &&
         std::all_of(step.context_lengths, step.context_lengths + step.sequences, [&](int32_t length) { return length <= step.max_blocks * block; });
}

bool accepts_one(const Select &, const Step &step) { return lie_within(step.output_rows, step.outputs, step.tokens); }

template <class Other> bool accepts_one(const Other &, const Step &) { return true; }

} // namespace

void Program::append(Instruction one) {
  std::visit([this](const auto &given) {
    const Place &out = given.out;
    if (out.region == Region::kTokens || out.region == Region::kOutputs) {
      int64_t &width = arena_width_[static_cast<int>(out.region)];
      width = std::max(width, out.offset + out.stride);
    }
  }, one);
  instructions_.push_back(std::move(one));
}

bool Program::accepts(const Step &step) const {
  if (step.query_starts[0] != 0 || step.query_starts[step.sequences] != step.tokens) return false;
  for (int64_t sequence = 0; sequence < step.sequences; ++sequence) {
    const int32_t count = step.query_starts[sequence + 1] - step.query_starts[sequence];
    if (count < 0 || step.context_lengths[sequence] < count) return false;
  }
  // Layers are alike: what one cache or table has been asked, the next of its size need not be.
  int64_t blocks_asked = -1;
  std::vector<bool> ropes_asked;
  for (const Instruction &one : instructions_) {
    if (const Attend *given = std::get_if<Attend>(&one)) {
      if (given->num_blocks == blocks_asked) continue;
      blocks_asked = given->num_blocks;
    } else if (const Heads *heads = std::get_if<Heads>(&one)) {
      if (heads->rope < 0) continue;
      const size_t rope = static_cast<size_t>(heads->rope);
      if (ropes_asked.size() <= rope) ropes_asked.resize(rope + 1);
      if (ropes_asked[rope]) continue;
      ropes_asked[rope] = true;
    }
    if (!std::visit([&step](const auto &given) { return accepts_one(given, step); }, one)) return false;
  }
  return true;
}

void Program::run(const Step &step, size_t begin, size_t end) {
  const std::lock_guard lock(mutex_);
  const int64_t rows[2] = {step.tokens, step.outputs};
  for (int arena = 0; arena < 2; ++arena) {
    const size_t bytes = static_cast<size_t>(rows[arena] * arena_width_[arena]) * sizeof(float);
    if (arenas_[arena].size() < bytes) arenas_[arena] = AlignedBuffer(bytes);
  }
  const Activations at(step, arenas_[0].as<float>(), arenas_[1].as<float>());
  auto began = std::chrono::steady_clock::now();
  for (size_t i = begin; i < end; ++i) {
    std::visit([&](const auto &one) { execute(one, step, at); }, instructions_[i]);
    if (!step.seconds) continue;
    const auto now = std::chrono::steady_clock::now();
    step.seconds[i] += std::chrono::duration<double>(now - began).count();
    began = now;
  }
}

} // namespace flyweight
