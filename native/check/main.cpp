// Runs every operation on awkward shapes with exactly sized buffers, on every instruction set this CPU has, and compares
// the results of one set with another's. Meant to be built with sanitizers (make native-sanitize): what the numbers
// should be, the Python tests know.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "dispatch.h"
#include "operations.h"
#include "program/program.h"
#include "thread_pool.h"

using namespace flyweight;

namespace {

std::mt19937 random_bits(7);
int failures = 0;

std::vector<float> numbers(int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float &value : values) value = normal(random_bits);
  return values;
}

std::vector<int8_t> codes(int64_t count, int low, int high) {
  std::vector<int8_t> values(static_cast<size_t>(count));
  for (int8_t &value : values) value = static_cast<int8_t>(std::uniform_int_distribution<int>(low, high)(random_bits));
  return values;
}

// Calls `run` on every instruction set; all results must be close to the first.
void compare(const std::string &what, const std::function<std::vector<float>()> &run, float tolerance = 1e-4f) {
  std::vector<float> first;
  for (const std::string &isa : available_isas()) {
    use_isa(isa);
    const std::vector<float> result = run();
    if (first.empty()) first = result;
    for (size_t i = 0; i < result.size(); ++i)
      if (!(std::fabs(result[i] - first[i]) <= tolerance * (1.0f + std::fabs(first[i])))) {
        std::printf("%s on %s: element %zu is %g, not %g\n", what.c_str(), isa.c_str(), i, static_cast<double>(result[i]), static_cast<double>(first[i]));
        ++failures;
        break;
      }
  }
}

void check_linear(const LinearHandle &handle, const std::string &what) {
  const int64_t in = handle.weight().in_features, out = handle.weight().out_features;
  const std::vector<float> bias = numbers(out);
  // On tile registers integer codes are rounded to bfloat16 with their scales.
  const bool rounded = handle.weight().compute == Compute::kBfloat16 && is_integer(handle.weight().storage);
  for (const int64_t rows : {1, 2, 5, 13, 49}) {
    const std::vector<float> x = numbers(rows * in);
    compare("linear " + what + ", rows " + std::to_string(rows), [&] {
      std::vector<float> y(static_cast<size_t>(rows * out));
      linear(handle, x.data(), in, rows, bias.data(), y.data(), out);
      return y;
    }, rounded ? 0.1f : 1e-4f);
  }
}

void check_linears() {
  for (const int64_t in : {1, 24, 171, 256})
    for (const int64_t out : {1, 40, 131}) {
      const std::string shape = std::to_string(in) + " x " + std::to_string(out);
      const std::vector<float> weight = numbers(in * out);
      for (const Compute compute : {Compute::kFloat32, Compute::kBfloat16}) {
        check_linear(LinearHandle::plain(weight.data(), Storage::kFloat32, out, in, compute), shape + " float32");
        const std::vector<uint16_t> halves(static_cast<size_t>(in * out), 0x3c01);
        check_linear(LinearHandle::plain(halves.data(), Storage::kFloat16, out, in, compute), shape + " float16");
        check_linear(LinearHandle::plain(halves.data(), Storage::kBfloat16, out, in, compute), shape + " bfloat16");
      }
      for (const int64_t group : {in, in % 8 ? int64_t{1} : int64_t{8}})
        for (const Storage storage : {Storage::kUint4, Storage::kUint6, Storage::kUint8})
          for (const Compute compute : {Compute::kFloat32, Compute::kBfloat16, Compute::kInt8}) {
            const std::vector<int8_t> values = codes(in * out, -code_offset(storage), code_offset(storage) - 1);
            const std::vector<float> scales(static_cast<size_t>(out * (in / group)), 0.01f);
            const std::vector<uint16_t> half_scales(scales.size(), 0x3c24); // 0.01 in bfloat16, about 1 in float16
            const std::vector<int8_t> zeros = codes(out * (in / group), -8, 7);
            const int64_t activation_group = group >= 32 ? group : std::min(in, group * (128 / group));
            const std::string what = shape + " group " + std::to_string(group) + ", bits " + std::to_string(code_bits(storage));
            for (const int8_t *zero_points : {static_cast<const int8_t *>(nullptr), zeros.data()})
              check_linear(LinearHandle::int_group(values.data(), scales.data(), Storage::kFloat32, zero_points, out, in, group, activation_group, storage, compute), what);
            check_linear(LinearHandle::int_group(values.data(), half_scales.data(), Storage::kBfloat16, zeros.data(), out, in, group, activation_group, storage, compute),
                         what + ", scales bfloat16");
          }
    }
}

void check_elementwise() {
  for (const int64_t width : {1, 16, 37}) {
    const std::vector<float> x = numbers(3 * 2 * width), weight = numbers(width), angles = numbers(3 * (width / 2));
    const auto results = [&](int64_t count, const std::function<void(float *)> &run) {
      return [count, run] { std::vector<float> out(static_cast<size_t>(count)); run(out.data()); return out; };
    };
    compare("rms_norm", results(6 * width, [&](float *out) { rms_norm(x.data(), weight.data(), out, 6, width, 1e-5f, 1.0f); }));
    compare("rope", results(6 * width, [&](float *out) { rope(x.data(), angles.data(), angles.data(), out, 3, 2, width, width / 2 * 2); }));
    for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh, Activation::kGelu}) {
      compare("act_mul", results(3 * width, [&](float *out) { act_mul(x.data(), out, width, 3, width, activation); }));
      compare("act_mul over its gate", results(6 * width, [&](float *out) {
        std::copy(x.begin(), x.end(), out);
        act_mul(out, out, 2 * width, 3, width, activation);
      }));
    }
    compare("add", results(6 * width, [&](float *out) { add(x.data(), x.data(), out, 0.5f, 6 * width); }));
    compare("cap", results(6 * width, [&](float *out) { cap(x.data(), out, 2.0f, 3.0f, 6 * width); }));
  }
}

void check_attention() {
  for (const int64_t head : {5, 64, 72})
    for (const CacheType type : {CacheType::kFloat32, CacheType::kFloat16, CacheType::kBfloat16, CacheType::kInt8, CacheType::kInt4}) {
      constexpr int64_t heads = 6, kv_heads = 2, block = 32, blocks = 40;
      const CacheLayout layout = CacheLayout::make(type, kv_heads, head, block);
      std::vector<int32_t> tables(4 * 35);
      for (size_t i = 0; i < tables.size(); ++i) tables[i] = static_cast<int32_t>((7 * i) % blocks);
      std::copy_n(tables.begin() + 70, 20, tables.begin() + 105); // the last two begin alike
      const std::vector<int32_t> starts{0, 1, 18, 19, 20}, lengths{11, 44, 1100, 800};
      const std::vector<float> q = numbers(20 * heads * head), k = numbers(block * blocks * kv_heads * head), v = numbers(block * blocks * kv_heads * head);
      const std::vector<float> sinks = numbers(heads);
      std::vector<int64_t> slots(static_cast<size_t>(blocks * block));
      for (size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<int64_t>(i);
      for (const int64_t window : {0, 9, 600})
        compare("attend", [&] {
          std::vector<uint8_t> cache(static_cast<size_t>(blocks * kv_heads * layout.head_bytes()), 0xff);
          cache_write(layout, k.data(), v.data(), cache.data(), slots.data(), blocks * block);
          std::vector<float> out(q.size());
          AttendArguments a{};
          a.q = q.data(), a.out = out.data(), a.cache = cache.data(), a.layout = layout, a.num_heads = heads, a.max_blocks = 35;
          a.block_tables = tables.data(), a.query_starts = starts.data(), a.context_lengths = lengths.data();
          a.scale = 0.1f, a.softcap = window == 9 ? 5.0f : 0.0f, a.window = window, a.keep_first = window == 9 ? 3 : 0;
          a.sinks = window ? sinks.data() : nullptr;
          attend(a, 4);
          return out;
        }, type == CacheType::kBfloat16 ? 1e-2f : 1e-3f);
    }
}

void check_sampling() {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const int64_t vocab : {1, 15, 64, 67, 2049}) {
    std::vector<float> logits = numbers(vocab);
    if (vocab > 15) logits[3] = -infinity;
    const std::vector<int32_t> edited{static_cast<int32_t>(vocab - 1)};
    const std::vector<float> factors{1.5f}, shifts{-0.5f};
    const std::vector<uint32_t> mask(static_cast<size_t>(vocab + 31) / 32, 0xb7ffffffu);
    for (const int64_t top_k : {int64_t{0}, int64_t{1}, int64_t{9}, vocab})
      for (const double top_p : {1.0, 0.5})
        for (const double min_p : {0.0, 0.1})
          for (const float inverse : {0.0f, 1.0f, 1e6f})
            compare("sample", [&] {
              std::vector<int32_t> top(static_cast<size_t>(std::min<int64_t>(vocab, 5))), kept(static_cast<size_t>(vocab));
              std::vector<float> scores(top.size()), shares(kept.size());
              float score = 0.0f;
              int64_t count = 0, token = 0;
              SampleArguments a{};
              a.logits = logits.data(), a.vocab = vocab, a.inverse_temperature = inverse, a.top_k = top_k, a.top_p = top_p, a.min_p = min_p;
              a.edit_tokens = edited.data(), a.edit_factors = factors.data(), a.edit_shifts = shifts.data(), a.num_edits = 1;
              a.mask = vocab > 15 ? mask.data() : nullptr;
              a.random = random_word(1, 2, 3, 0), a.num_top = static_cast<int64_t>(top.size()), a.log_probability = &score;
              a.top_tokens = top.data(), a.top_log_probabilities = scores.data();
              a.num_kept = &count, a.kept_tokens = kept.data(), a.kept_shares = shares.data();
              sample(&a, 1, &token);
              return std::vector<float>{static_cast<float>(token), static_cast<float>(count), score, shares[0]};
            });
  }
}

void check_columns() {
  const std::vector<float> ratios{1.0f, 0.8f, 0.6f};
  for (const int64_t rows : {1, 33})
    for (const int64_t width : {7, 64})
      for (const int64_t num_ratios : {0, 1, 3}) {
        const std::vector<float> given = numbers(rows * width);
        std::vector<float> upper(static_cast<size_t>(width * width), 0.01f);
        for (int64_t i = 0; i < width; ++i) upper[static_cast<size_t>(i * width + i)] = 1.0f;
        compare("gptq_group", [&] {
          std::vector<float> scales(static_cast<size_t>(rows), 0.2f), zeros(scales.size()), losses(scales.size());
          std::vector<int8_t> out(given.size());
          GptqArguments a{};
          a.weight = given.data(), a.weight_stride = a.width = a.codes_stride = width, a.ratios = ratios.data(), a.num_ratios = num_ratios;
          a.minimum = -8.0f, a.maximum = 7.0f, a.codes = out.data(), a.scales = scales.data(), a.zero_points = zeros.data(), a.losses = losses.data();
          gptq_group(a, upper.data(), rows);
          return std::vector<float>(out.begin(), out.end());
        });
      }
}

void check_rounding() {
  for (const int64_t group : {1, 12, 43, 64})
    for (const Storage source : {Storage::kFloat32, Storage::kFloat16, Storage::kBfloat16})
      for (const bool symmetric : {true, false}) {
        const int64_t rows = 5, width = 3 * group;
        const std::vector<float> weight = numbers(rows * width);
        const std::vector<uint16_t> halves(weight.size(), 0x3c01);
        compare("rounding", [&] {
          std::vector<int8_t> rounded(weight.size()), zeros(static_cast<size_t>(rows * 3));
          std::vector<float> scales(zeros.size());
          RoundingArguments a{};
          a.weight = source == Storage::kFloat32 ? static_cast<const void *>(weight.data()) : halves.data();
          a.source = source, a.width = width, a.group = group, a.minimum = -32.0f, a.maximum = 31.0f, a.symmetric = symmetric;
          a.scale_storage = Storage::kFloat32, a.codes = rounded.data(), a.scales = scales.data(), a.zero_points = zeros.data();
          round_weights(a, rows);
          std::vector<float> all(scales);
          all.insert(all.end(), rounded.begin(), rounded.end());
          all.insert(all.end(), zeros.begin(), zeros.end());
          return all;
        }, 0.0f);
      }
}

void check_gram() {
  for (const int64_t rows : {1, 33, 70})
    for (const int64_t width : {1, 16, 37, 130})
      for (const bool rounded : {false, true}) {
        const std::vector<float> x = numbers(rows * width);
        compare("gram", [&] {
          std::vector<float> sums(static_cast<size_t>(width * width), 1.0f), upper;
          gram(x.data(), width, rows, width, rounded, sums.data());
          for (int64_t i = 0; i < width; ++i)
            for (int64_t j = i; j < width; ++j) upper.push_back(sums[static_cast<size_t>(i * width + j)]);
          return upper;
        });
      }
}

// Every instruction but attention, which has a check of its own, on matrices of odd widths.
void check_program() {
  constexpr int64_t vocabulary = 9, width = 24, tokens = 5, outputs = 2, heads = 3, head = 8, wide = 42, inner = 21;
  const std::vector<float> weight = numbers(width), square = numbers(wide * width), down = numbers(width * inner);
  const std::vector<float> angles = numbers(7 * (head / 2));
  const std::vector<uint16_t> table(static_cast<size_t>(vocabulary * width), 0x3c01);
  const LinearHandle up = LinearHandle::plain(square.data(), Storage::kFloat32, wide, width, Compute::kFloat32);
  const LinearHandle back = LinearHandle::plain(down.data(), Storage::kFloat32, width, inner, Compute::kFloat32);
  const std::vector<int32_t> ids{8, 0, 3, 3, 1}, starts{0, 5}, lengths{5}, blocks{0}, rows{6, 0, 2, 3, 1};
  const std::vector<int64_t> slots(tokens), wanted{4, 1};
  const RopeTable rope{angles.data(), angles.data(), 7, rows.data()};
  const Place x{Region::kTokens, 0, width, 0}, normed{Region::kTokens, 32, width, 0}, qkv{Region::kTokens, 64, wide, 0};
  const Place some{Region::kTokens, 64, wide, 5}, turned{Region::kTokens, 112, width, 0}, gated{Region::kTokens, 32, inner, 0};
  const Place hidden{Region::kHidden, 0, width, 0}, raw{Region::kLogits, 0, wide, 0};
  compare("program", [&] {
    Program program;
    program.append(instruction::Embed{table.data(), -1, 0, Storage::kFloat16, vocabulary, width, 0.7f, x});
    program.append(instruction::Heads{x, normed, 1, width, weight.data(), 1e-5f, 1.0f, -1, 0});
    program.append(instruction::Linear{&up, nullptr, normed, qkv});
    program.append(instruction::Heads{some, turned, heads, head, weight.data(), 1e-5f, 0.0f, 0, head});
    program.append(instruction::Add{x, turned, x, width, 0.5f});
    program.append(instruction::ActMul{qkv, gated, inner, Activation::kSilu});
    program.append(instruction::Linear{&back, weight.data(), gated, turned});
    program.append(instruction::Add{x, turned, x, width, 1.0f});
    program.append(instruction::Select{x, hidden, width});
    program.begin_head();
    program.append(instruction::Linear{&up, nullptr, hidden, raw});
    program.append(instruction::Cap{raw, raw, wide, 0.5f, 4.0f});
    std::vector<float> rows_out(outputs * width), logits(outputs * wide), again(logits.size());
    Step step{tokens, outputs, 1, 1, ids.data(), starts.data(), lengths.data(), blocks.data(), slots.data(), wanted.data(), &rope, rows_out.data(), logits.data(), nullptr};
    if (!program.accepts(step)) ++failures;
    program.run(step);
    step.logits = again.data();
    program.run_head(step);
    if (again != logits) ++failures;
    return logits;
  });
}

} // namespace

int main() {
  set_thread_count(2);
  check_linears();
  check_elementwise();
  check_attention();
  check_columns();
  check_program();
  check_sampling();
  check_gram();
  check_rounding();
  std::printf("%d failures on", failures);
  for (const std::string &isa : available_isas()) std::printf(" %s", isa.c_str());
  std::printf("\n");
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
