// The door to Python: the only file that knows nanobind. The facade in flyweight.kernels has checked every argument;
// here the types are fixed, the lock of the interpreter is let go and the operation is called.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <tuple>

#if defined(__linux__)
#include <malloc.h>
#endif

#include "dispatch.h"
#include "operations.h"
#include "operations/shared_keys.h"
#include "program/program.h"
#include "thread_pool.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace flyweight {
namespace {

template <class T> using In = nb::ndarray<const T, nb::numpy, nb::c_contig, nb::device::cpu>;
template <class T> using Out = nb::ndarray<T, nb::numpy, nb::c_contig, nb::device::cpu>;
template <class T> using Rows = nb::ndarray<T, nb::numpy, nb::ndim<2>, nb::device::cpu>; // rows may lie apart
using AnyIn = nb::ndarray<nb::numpy, nb::ro, nb::c_contig, nb::device::cpu>; // floats, or 16-bit words that hold floats
using AnyOut = nb::ndarray<nb::numpy, nb::c_contig, nb::device::cpu>;
template <class T> using Maybe = std::optional<T>;

int64_t size(size_t n) { return static_cast<int64_t>(n); }
template <class Array> auto data_or_null(const Maybe<Array> &array) { return array ? array->data() : nullptr; }

const char *name_of(Compute compute) {
  switch (compute) {
  case Compute::kFloat32: return "float32";
  case Compute::kBfloat16: return "bfloat16";
  case Compute::kInt8: return "int8";
  }
  return "";
}

const char *name_of(Storage storage) {
  switch (storage) {
  case Storage::kFloat32: return "float32";
  case Storage::kFloat16: return "float16";
  case Storage::kBfloat16: return "bfloat16";
  case Storage::kUint4: return "uint4";
  case Storage::kUint6: return "uint6";
  case Storage::kUint8: return "uint8";
  }
  return "";
}

LinearHandle prepare_plain(const AnyIn &weight, Storage source, Compute compute) {
  const nb::gil_scoped_release release;
  return LinearHandle::plain(weight.data(), source, size(weight.shape(0)), size(weight.shape(1)), compute);
}

LinearHandle prepare_int_group(const In<int8_t> &codes, const AnyIn &scales, Storage scale_storage, const Maybe<In<int8_t>> &zero_points,
                               int64_t group, int64_t activation_group, Storage storage, Compute compute) {
  const nb::gil_scoped_release release;
  return LinearHandle::int_group(codes.data(), scales.data(), scale_storage, data_or_null(zero_points), size(codes.shape(0)), size(codes.shape(1)),
                                 group, activation_group, storage, compute);
}

using Kind = std::tuple<Storage, Compute, int64_t, int64_t, int64_t, int64_t, Storage, bool>; // the fields of PackedKind in order

PackedKind kind_of(const Kind &k) {
  return {std::get<0>(k), std::get<1>(k), std::get<2>(k), std::get<3>(k), std::get<4>(k), std::get<5>(k), std::get<6>(k), std::get<7>(k)};
}

LinearHandle view_linear(const Kind &kind, const In<uint8_t> &values, const In<uint8_t> &scales, const In<uint8_t> &zero_points) {
  const auto bytes = [](const In<uint8_t> &part) { return reinterpret_cast<const std::byte *>(part.data()); };
  return LinearHandle::view(kind_of(kind), {bytes(values), bytes(scales), bytes(zero_points)});
}

// The packed bytes as read-only arrays that keep the handle alive.
nb::list linear_parts(const nb::object &self) {
  const LinearHandle &handle = nb::cast<const LinearHandle &>(self);
  const auto bytes = LinearHandle::part_bytes(handle.kind());
  nb::list parts;
  for (size_t i = 0; i < LinearHandle::kParts; ++i)
    parts.append(nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(handle.parts()[i], {static_cast<size_t>(bytes[i])}, self));
  return parts;
}

void linear_call(const Rows<const float> &x, const LinearHandle &handle, const Maybe<In<float>> &bias, const Rows<float> &out) {
  const nb::gil_scoped_release release;
  linear(handle, x.data(), x.stride(0), size(x.shape(0)), data_or_null(bias), out.data(), out.stride(0));
}

void rms_norm_call(const In<float> &x, const In<float> &weight, const Out<float> &out, float epsilon, float weight_offset) {
  const nb::gil_scoped_release release;
  const int64_t width = size(weight.shape(0));
  rms_norm(x.data(), weight.data(), out.data(), width ? size(x.size()) / width : 0, width, epsilon, weight_offset);
}

void rope_call(const In<float> &x, const In<float> &cosine, const In<float> &sine, const Out<float> &out) {
  const nb::gil_scoped_release release;
  rope(x.data(), cosine.data(), sine.data(), out.data(), size(x.shape(0)), size(x.shape(1)), size(x.shape(2)), 2 * size(cosine.shape(1)));
}

void act_mul_call(const In<float> &gate_up, const Out<float> &out, Activation activation) {
  const nb::gil_scoped_release release;
  act_mul(gate_up.data(), out.data(), size(out.shape(1)), size(out.shape(0)), size(out.shape(1)), activation);
}

void add_call(const In<float> &x, const In<float> &y, const Out<float> &out, float alpha) {
  const nb::gil_scoped_release release;
  add(x.data(), y.data(), out.data(), alpha, size(x.size()));
}

void cap_call(const In<float> &x, const Out<float> &out, float scale, float softcap) {
  const nb::gil_scoped_release release;
  cap(x.data(), out.data(), scale, softcap, size(x.size()));
}

void cache_write_call(const In<float> &k, const In<float> &v, const Out<uint8_t> &cache, CacheType type, int64_t block_size, const In<int64_t> &slots) {
  const nb::gil_scoped_release release;
  const CacheLayout layout = CacheLayout::make(type, size(k.shape(1)), size(k.shape(2)), block_size);
  cache_write(layout, k.data(), v.data(), cache.data(), slots.data(), size(k.shape(0)));
}

void attend_call(const In<float> &q, const In<uint8_t> &cache, CacheType type, int64_t block_size, const In<int32_t> &block_tables,
                 const In<int32_t> &query_starts, const In<int32_t> &context_lengths, const Maybe<In<float>> &sinks, const Out<float> &out,
                 float scale, float softcap, int64_t window, int64_t keep_first) {
  const nb::gil_scoped_release release;
  AttendArguments a{};
  a.q = q.data(), a.out = out.data(), a.cache = cache.data();
  a.layout = CacheLayout::make(type, size(cache.shape(1)), size(q.shape(2)), block_size);
  a.num_heads = size(q.shape(1)), a.max_blocks = size(block_tables.shape(1));
  a.block_tables = block_tables.data(), a.query_starts = query_starts.data(), a.context_lengths = context_lengths.data();
  a.scale = scale, a.softcap = softcap, a.window = window, a.keep_first = keep_first, a.sinks = data_or_null(sinks);
  attend(a, size(context_lengths.shape(0)));
}

std::vector<std::tuple<std::vector<int32_t>, int64_t>> shared_keys_call(const In<int32_t> &block_tables, const In<int32_t> &query_starts,
                                                                        const In<int32_t> &context_lengths, int64_t block_size, int64_t window,
                                                                        int64_t most_sequences) {
  AttendArguments a{};
  a.layout.block_size = block_size, a.max_blocks = size(block_tables.shape(1)), a.window = window;
  a.block_tables = block_tables.data(), a.query_starts = query_starts.data(), a.context_lengths = context_lengths.data();
  std::vector<std::tuple<std::vector<int32_t>, int64_t>> found;
  for (SharedGroup &group : find_shared_keys(a, size(context_lengths.shape(0)), most_sequences)) found.emplace_back(std::move(group.sequences), group.key_end);
  return found;
}

void gptq_group_call(const Rows<const float> &weight, const In<float> &inverse_cholesky, const In<float> &ratios, float minimum, float maximum,
                     bool symmetric, CacheType scale_type, const Rows<int8_t> &codes, const Out<float> &scales, const Out<float> &zero_points,
                     const Out<float> &losses) {
  const nb::gil_scoped_release release;
  GptqArguments a{};
  a.weight = weight.data(), a.weight_stride = weight.stride(0), a.width = size(weight.shape(1));
  a.ratios = ratios.data(), a.num_ratios = size(ratios.shape(0));
  a.minimum = minimum, a.maximum = maximum, a.symmetric = symmetric, a.scale_type = scale_type;
  a.codes = codes.data(), a.codes_stride = codes.stride(0);
  a.scales = scales.data(), a.zero_points = zero_points.data(), a.losses = losses.data();
  gptq_group(a, inverse_cholesky.data(), size(weight.shape(0)));
}

using PlaceTuple = std::tuple<Region, int64_t, int64_t, int64_t>;
using RopeTuple = std::tuple<In<float>, In<float>, In<int32_t>>; // cosine, sine, rows

Place place(const PlaceTuple &given) { return {std::get<0>(given), std::get<1>(given), std::get<2>(given), std::get<3>(given)}; }

void append_embed(Program &program, const AnyIn &table, Storage storage, float scale, const PlaceTuple &out) {
  program.append(instruction::Embed{table.data(), -1, 0, storage, size(table.shape(0)), size(table.shape(1)), scale, place(out)});
}

// Gives memory that was freed back to the system. The C library keeps it for later: after a large file was parsed, for good.
bool release_free_memory() {
#if defined(__GLIBC__)
  return malloc_trim(0) == 1;
#else
  return false;
#endif
}

// Lets threads that start from now on take memory from one heap. The C library gives each a heap of its own, where what one
// thread made and another freed stays behind in pieces.
bool share_one_heap() {
#if defined(__GLIBC__)
  return mallopt(M_ARENA_MAX, 1) == 1;
#else
  return false;
#endif
}

void append_embed_from_file(Program &program, int descriptor, int64_t offset, int64_t vocabulary, int64_t width, Storage storage, float scale,
                            const PlaceTuple &out) {
  program.append(instruction::Embed{nullptr, descriptor, offset, storage, vocabulary, width, scale, place(out)});
}

void append_linear(Program &program, const LinearHandle &handle, const Maybe<In<float>> &bias, const PlaceTuple &x, const PlaceTuple &out) {
  program.append(instruction::Linear{&handle, data_or_null(bias), place(x), place(out)});
}

void append_heads(Program &program, const PlaceTuple &x, const PlaceTuple &out, int64_t heads, int64_t head_dim, const Maybe<In<float>> &weight,
                  float epsilon, float weight_offset, int64_t rope, int64_t rotary_dim) {
  program.append(instruction::Heads{place(x), place(out), heads, head_dim, data_or_null(weight), epsilon, weight_offset, rope, rotary_dim});
}

void append_attend(Program &program, const PlaceTuple &q, const PlaceTuple &k, const PlaceTuple &v, const PlaceTuple &out, int64_t num_heads,
                   const Out<uint8_t> &cache, CacheType type, int64_t head_dim, int64_t block_size, float scale, float softcap, int64_t window) {
  AttendArguments a{};
  a.layout = CacheLayout::make(type, size(cache.shape(1)), head_dim, block_size);
  a.num_heads = num_heads, a.scale = scale, a.softcap = softcap, a.window = window;
  program.append(instruction::Attend{place(q), place(k), place(v), place(out), a, cache.data(), size(cache.shape(0))});
}

void append_act_mul(Program &program, const PlaceTuple &x, const PlaceTuple &out, int64_t width, Activation activation) {
  program.append(instruction::ActMul{place(x), place(out), width, activation});
}

void append_add(Program &program, const PlaceTuple &x, const PlaceTuple &y, const PlaceTuple &out, int64_t width, float scale) {
  program.append(instruction::Add{place(x), place(y), place(out), width, scale});
}

void append_cap(Program &program, const PlaceTuple &x, const PlaceTuple &out, int64_t width, float scale, float softcap) {
  program.append(instruction::Cap{place(x), place(out), width, scale, softcap});
}

void append_select(Program &program, const PlaceTuple &x, const PlaceTuple &out, int64_t width) {
  program.append(instruction::Select{place(x), place(out), width});
}

// False, and nothing done, if the step does not fit the program. Without logits the head is left out.
bool program_run(Program &program, const In<int32_t> &token_ids, const In<int32_t> &query_starts, const In<int32_t> &context_lengths,
                 const In<int32_t> &block_tables, const In<int64_t> &slots, const In<int64_t> &output_rows, const std::vector<RopeTuple> &ropes,
                 const Out<float> &hidden, const Maybe<Out<float>> &logits, const Maybe<Out<double>> &seconds) {
  std::vector<RopeTable> tables;
  for (const auto &[cosine, sine, rows] : ropes) tables.push_back({cosine.data(), sine.data(), size(cosine.shape(0)), rows.data()});
  Step step{};
  step.tokens = size(token_ids.shape(0)), step.outputs = size(output_rows.shape(0));
  step.sequences = size(context_lengths.shape(0)), step.max_blocks = size(block_tables.shape(1));
  step.token_ids = token_ids.data(), step.query_starts = query_starts.data(), step.context_lengths = context_lengths.data();
  step.block_tables = block_tables.data(), step.slots = slots.data(), step.output_rows = output_rows.data(), step.ropes = tables.data();
  step.hidden = hidden.data(), step.logits = data_or_null(logits), step.seconds = data_or_null(seconds);
  const nb::gil_scoped_release release;
  if (!program.accepts(step)) return false;
  logits ? program.run(step) : program.run_body(step);
  return true;
}

void program_run_head(Program &program, const Out<float> &hidden, const Out<float> &logits) {
  Step step{};
  step.outputs = size(hidden.shape(0)), step.hidden = hidden.data(), step.logits = logits.data();
  const nb::gil_scoped_release release;
  program.run_head(step);
}

// Row by row: numbers holds (inverse temperature, top_p, min_p), integers (top_k, seed, stream, position); the edits of row r
// lie at edit_starts[r] to edit_starts[r + 1]; mask_rows[r] is its row of masks, or -1.
void sample_call(const In<float> &logits, const In<double> &numbers, const In<int64_t> &integers, const In<int64_t> &edit_starts,
                 const In<int32_t> &edit_tokens, const In<float> &edit_factors, const In<float> &edit_shifts, const In<uint32_t> &masks,
                 const In<int64_t> &mask_rows, const Out<int64_t> &tokens,
                 const Maybe<Out<float>> &log_probabilities, const Maybe<Out<int32_t>> &top_tokens, const Maybe<Out<float>> &top_log_probabilities,
                 const Maybe<Out<int64_t>> &kept_counts, const Maybe<Out<int32_t>> &kept_tokens, const Maybe<Out<float>> &kept_shares) {
  const nb::gil_scoped_release release;
  const int64_t vocab = size(logits.shape(1)), num_top = top_tokens ? size(top_tokens->shape(1)) : 0;
  std::vector<SampleArguments> rows(logits.shape(0));
  for (size_t row = 0; row < rows.size(); ++row) {
    const int64_t r = size(row);
    const double *number = numbers.data() + 3 * r;
    const int64_t *integer = integers.data() + 4 * r, first = edit_starts.data()[r];
    SampleArguments &a = rows[row];
    a.logits = logits.data() + r * vocab, a.vocab = vocab;
    a.edit_tokens = edit_tokens.data() + first, a.edit_factors = edit_factors.data() + first, a.edit_shifts = edit_shifts.data() + first;
    a.num_edits = edit_starts.data()[r + 1] - first;
    if (mask_rows.data()[r] >= 0) a.mask = masks.data() + mask_rows.data()[r] * size(masks.shape(1));
    a.inverse_temperature = static_cast<float>(number[0]), a.top_p = number[1], a.min_p = number[2], a.top_k = integer[0];
    a.random = random_word(static_cast<uint64_t>(integer[1]), static_cast<uint64_t>(integer[2]), static_cast<uint64_t>(integer[3]), 0);
    a.num_top = log_probabilities ? num_top : -1;
    if (log_probabilities) {
      a.log_probability = log_probabilities->data() + r;
      a.top_tokens = top_tokens->data() + r * num_top, a.top_log_probabilities = top_log_probabilities->data() + r * num_top;
    }
    if (kept_counts) a.num_kept = kept_counts->data() + r, a.kept_tokens = kept_tokens->data() + r * vocab, a.kept_shares = kept_shares->data() + r * vocab;
  }
  sample(rows.data(), size(rows.size()), tokens.data());
}

void round_weights_call(const AnyIn &weight, Storage source, int64_t group, int bits, bool symmetric, Storage scale_storage, const Out<int8_t> &codes,
                        const AnyOut &scales, const Maybe<Out<int8_t>> &zero_points) {
  RoundingArguments a{};
  a.weight = weight.data(), a.source = source, a.width = size(weight.shape(1)), a.group = group;
  a.minimum = static_cast<float>(-(1 << (bits - 1))), a.maximum = -1.0f - a.minimum;
  a.symmetric = symmetric, a.scale_storage = scale_storage;
  a.codes = codes.data(), a.scales = scales.data(), a.zero_points = zero_points ? zero_points->data() : nullptr;
  const nb::gil_scoped_release release;
  round_weights(a, size(weight.shape(0)));
}

void gram_call(const Rows<const float> &x, const Out<float> &sums, bool rounded) {
  const nb::gil_scoped_release release;
  gram(x.data(), x.stride(0), size(x.shape(0)), size(x.shape(1)), rounded, sums.data());
}

} // namespace

NB_MODULE(_native, m) {
  nb::enum_<Storage>(m, "Storage").value("float32", Storage::kFloat32).value("float16", Storage::kFloat16).value("bfloat16", Storage::kBfloat16)
      .value("uint4", Storage::kUint4).value("uint6", Storage::kUint6).value("uint8", Storage::kUint8);
  nb::enum_<Compute>(m, "Compute").value("float32", Compute::kFloat32).value("bfloat16", Compute::kBfloat16).value("int8", Compute::kInt8);
  nb::enum_<Activation>(m, "Activation").value("silu", Activation::kSilu).value("gelu_tanh", Activation::kGeluTanh).value("gelu", Activation::kGelu);
  nb::enum_<Product>(m, "Product").value("int4", Product::kInt4).value("int8", Product::kInt8).value("bfloat16", Product::kBfloat16);
  nb::enum_<CacheType>(m, "CacheType").value("float32", CacheType::kFloat32).value("float16", CacheType::kFloat16).value("bfloat16", CacheType::kBfloat16)
      .value("int8", CacheType::kInt8).value("int4", CacheType::kInt4);
  nb::class_<LinearHandle>(m, "LinearHandle")
      .def_prop_ro("in_features", [](const LinearHandle &h) { return h.weight().in_features; })
      .def_prop_ro("out_features", [](const LinearHandle &h) { return h.weight().out_features; })
      .def_prop_ro("nbytes", &LinearHandle::nbytes)
      .def_prop_ro("kind", [](const LinearHandle &h) {
        const PackedKind &k = h.kind();
        return Kind(k.storage, k.compute, k.out_features, k.in_features, k.group, k.activation_group, k.scale_storage, k.has_zero_points);
      })
      .def_prop_ro("compute", [](const LinearHandle &h) { return name_of(h.weight().compute); })
      .def_prop_ro("storage", [](const LinearHandle &h) { return name_of(h.weight().storage); });

  m.def("isa", [] { return std::string(active_kernels().name); });
  m.def("available_isas", &available_isas);
  m.def("use_isa", &use_isa, "name"_a);
  m.def("batch_invariant", &batch_invariant);
  m.def("set_batch_invariant", &set_batch_invariant, "wanted"_a);
  m.def("limit_isa", &limit_isa, "name"_a);
  // The facade hands over its own error type once, so that a refusal reaches the caller as one of the package's errors.
  m.def("refuse", [](nb::object error_type, const std::string &reason) {
    static nb::object *const kept = new nb::object();
    *kept = std::move(error_type);
    nb::register_exception_translator([](const std::exception_ptr &thrown, void *) {
      try {
        std::rethrow_exception(thrown);
      } catch (const KernelsRefused &refusal) {
        PyErr_SetString(kept->ptr(), refusal.what());
      }
    });
    refuse_kernels(reason);
  }, "error_type"_a, "reason"_a);
  m.def("thread_count", &thread_count);
  m.def("measure_read", &measure_read, "length"_a, "attempts"_a, nb::call_guard<nb::gil_scoped_release>());
  m.def("measure_multiply", &measure_multiply, "product"_a, "attempts"_a, nb::call_guard<nb::gil_scoped_release>());
  m.def("set_thread_count", &set_thread_count, "count"_a);

  m.def("prepare_plain", &prepare_plain, "weight"_a.noconvert(), "source"_a, "compute"_a);
  m.def("prepare_int_group", &prepare_int_group, "codes"_a.noconvert(), "scales"_a.noconvert(), "scale_storage"_a,
        "zero_points"_a.noconvert().none(), "group"_a, "activation_group"_a, "storage"_a, "compute"_a);
  m.attr("layout_version") = kLayoutVersion;
  m.def("linear_parts", &linear_parts, "handle"_a);
  m.def("part_bytes", [](const Kind &kind) { return LinearHandle::part_bytes(kind_of(kind)); }, "kind"_a);
  m.def("view_linear", &view_linear, "kind"_a, "values"_a.noconvert(), "scales"_a.noconvert(), "zero_points"_a.noconvert(), nb::keep_alive<0, 2>(),
        nb::keep_alive<0, 3>(), nb::keep_alive<0, 4>());
  m.def("linear", &linear_call, "x"_a.noconvert(), "handle"_a, "bias"_a.noconvert().none(), "out"_a.noconvert());
  m.def("rms_norm", &rms_norm_call, "x"_a.noconvert(), "weight"_a.noconvert(), "out"_a.noconvert(), "epsilon"_a, "weight_offset"_a);
  m.def("rope", &rope_call, "x"_a.noconvert(), "cosine"_a.noconvert(), "sine"_a.noconvert(), "out"_a.noconvert());
  m.def("act_mul", &act_mul_call, "gate_up"_a.noconvert(), "out"_a.noconvert(), "activation"_a);
  m.def("add", &add_call, "x"_a.noconvert(), "y"_a.noconvert(), "out"_a.noconvert(), "alpha"_a);
  m.def("cap", &cap_call, "x"_a.noconvert(), "out"_a.noconvert(), "scale"_a, "softcap"_a);
  m.def("cache_head_bytes", [](CacheType type, int64_t head_dim, int64_t block_size) { return CacheLayout::make(type, 1, head_dim, block_size).head_bytes(); },
        "cache_type"_a, "head_dim"_a, "block_size"_a);
  m.def("cache_write", &cache_write_call, "k"_a.noconvert(), "v"_a.noconvert(), "cache"_a.noconvert(), "cache_type"_a, "block_size"_a,
        "slots"_a.noconvert());
  m.def("shared_keys", &shared_keys_call, "block_tables"_a.noconvert(), "query_starts"_a.noconvert(), "context_lengths"_a.noconvert(),
        "block_size"_a, "window"_a, "most_sequences"_a);
  m.def("attend", &attend_call, "q"_a.noconvert(), "cache"_a.noconvert(), "cache_type"_a, "block_size"_a, "block_tables"_a.noconvert(),
        "query_starts"_a.noconvert(), "context_lengths"_a.noconvert(), "sinks"_a.noconvert().none(), "out"_a.noconvert(), "scale"_a,
        "softcap"_a, "window"_a, "keep_first"_a);
  m.def("unpack_codes", [](const In<int32_t> &packed, int bits, const Out<int8_t> &codes) {
    const nb::gil_scoped_release release;
    unpack_codes(reinterpret_cast<const uint8_t *>(packed.data()), size(packed.shape(1)) * 4, bits, size(codes.shape(0)), size(codes.shape(1)), codes.data());
  }, "packed"_a.noconvert(), "bits"_a, "codes"_a.noconvert());
  m.def("round_weights", &round_weights_call, "weight"_a.noconvert(), "source"_a, "group"_a, "bits"_a, "symmetric"_a, "scale_storage"_a,
        "codes"_a.noconvert(), "scales"_a.noconvert(), "zero_points"_a.noconvert().none());
  m.def("gram", &gram_call, "x"_a.noconvert(), "sums"_a.noconvert(), "rounded"_a);
  m.def("gptq_group", &gptq_group_call, "weight"_a.noconvert(), "inverse_cholesky"_a.noconvert(), "ratios"_a.noconvert(), "minimum"_a,
        "maximum"_a, "symmetric"_a, "scale_type"_a, "codes"_a.noconvert(), "scales"_a.noconvert(), "zero_points"_a.noconvert(),
        "losses"_a.noconvert());

  nb::enum_<Region>(m, "Region").value("tokens", Region::kTokens).value("outputs", Region::kOutputs).value("hidden", Region::kHidden).value("logits", Region::kLogits);
  m.def("release_free_memory", &release_free_memory, nb::call_guard<nb::gil_scoped_release>());
  m.def("share_one_heap", &share_one_heap);
  // A program points into what it is given, and keeps it alive.
  nb::class_<Program>(m, "Program")
      .def(nb::init<>())
      .def("__len__", &Program::size)
      .def("embed", &append_embed, "table"_a.noconvert(), "storage"_a, "scale"_a, "out"_a, nb::keep_alive<1, 2>())
      .def("embed_from_file", &append_embed_from_file, "descriptor"_a, "offset"_a, "vocabulary"_a, "width"_a, "storage"_a, "scale"_a, "out"_a)
      .def("linear", &append_linear, "handle"_a, "bias"_a.noconvert().none(), "x"_a, "out"_a, nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>())
      .def("heads", &append_heads, "x"_a, "out"_a, "heads"_a, "head_dim"_a, "weight"_a.noconvert().none(), "epsilon"_a, "weight_offset"_a, "rope"_a,
           "rotary_dim"_a, nb::keep_alive<1, 6>())
      .def("attend", &append_attend, "q"_a, "k"_a, "v"_a, "out"_a, "num_heads"_a, "cache"_a.noconvert(), "cache_type"_a, "head_dim"_a,
           "block_size"_a, "scale"_a, "softcap"_a, "window"_a, nb::keep_alive<1, 7>())
      .def("act_mul", &append_act_mul, "x"_a, "out"_a, "width"_a, "activation"_a)
      .def("add", &append_add, "x"_a, "y"_a, "out"_a, "width"_a, "scale"_a)
      .def("cap", &append_cap, "x"_a, "out"_a, "width"_a, "scale"_a, "softcap"_a)
      .def("select", &append_select, "x"_a, "out"_a, "width"_a)
      .def("begin_head", &Program::begin_head)
      .def("run", &program_run, "token_ids"_a.noconvert(), "query_starts"_a.noconvert(), "context_lengths"_a.noconvert(),
           "block_tables"_a.noconvert(), "slots"_a.noconvert(), "output_rows"_a.noconvert(), "ropes"_a, "hidden"_a.noconvert(),
           "logits"_a.noconvert().none(), "seconds"_a.noconvert().none())
      .def("run_head", &program_run_head, "hidden"_a.noconvert(), "logits"_a.noconvert());
  m.def("random_word", &random_word, "seed"_a, "stream"_a, "position"_a, "purpose"_a);
  m.def("sample", &sample_call, "logits"_a.noconvert(), "numbers"_a.noconvert(), "integers"_a.noconvert(), "edit_starts"_a.noconvert(),
        "edit_tokens"_a.noconvert(), "edit_factors"_a.noconvert(), "edit_shifts"_a.noconvert(), "masks"_a.noconvert(), "mask_rows"_a.noconvert(), "tokens"_a.noconvert(),
        "log_probabilities"_a.noconvert().none(), "top_tokens"_a.noconvert().none(), "top_log_probabilities"_a.noconvert().none(),
        "kept_counts"_a.noconvert().none(), "kept_tokens"_a.noconvert().none(), "kept_shares"_a.noconvert().none());
}

} // namespace flyweight
