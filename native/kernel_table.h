// The border between the drivers and the kernels: argument records and one table of function pointers per instruction set.
//
// A kernel works on a range of rows, panels or tasks given by its caller, in memory given by its caller; it allocates
// nothing, throws nothing and knows no threads. Every length counts elements, every stride counts elements too.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cache_layout.h"

namespace flyweight {

inline constexpr int64_t kLanes = 16;       // output features side by side in one packed panel, on every instruction set
inline constexpr int64_t kKeyTile = 128;    // keys that attention takes in one step
inline constexpr int64_t kKeyChunk = 512;   // keys of a context that are one piece of work and one step of the merge
inline constexpr int64_t kLongestSegment = 256; // inputs of integer codes that are quantized and multiplied as one piece

enum class Storage : int32_t { kFloat32, kFloat16, kBfloat16, kUint4, kUint6, kUint8 };
enum class Compute : int32_t { kFloat32, kBfloat16, kInt8 };
enum class Activation : int32_t { kSilu, kGeluTanh, kGelu };

inline constexpr bool is_integer(Storage storage) { return storage >= Storage::kUint4; }
inline constexpr int64_t code_bits(Storage storage) { return storage == Storage::kUint4 ? 4 : storage == Storage::kUint6 ? 6 : 8; }
inline constexpr int32_t code_offset(Storage storage) { return 1 << (code_bits(storage) - 1); } // what a stored value is above its code
inline constexpr int64_t codes_per_step(Storage storage) { return storage == Storage::kUint6 ? 16 : 8; } // inputs of one packed step
inline constexpr int64_t code_bytes(Storage storage, int64_t inputs) { return inputs * kLanes * code_bits(storage) / 8; } // in a panel

// One packed weight matrix.
//
// Panels of kLanes output features follow one another. In a panel the inputs are cut into `num_segments` segments of
// `segment` inputs (the last of each weight group may be shorter), each padded to `padded_segment`. One segment has one
// weight scale per output; `segments_per_scale` consecutive segments share it. Floating point weights are one segment.
//
//   kFloat32, kFloat16   [input][lane]
//   kBfloat16            [input / 2][lane][input % 2]
//   kUint8               [input / 4][lane][input % 4]                      value = code + 128
//   kUint4               [input / 8][lane][input % 4], low half-byte for inputs 0..3 of 8, high for 4..7; value = code + 8
//   kUint6               of 16 inputs the low four bits as two steps of kUint4, then [lane][input % 4] with the upper bits of
//                        inputs 4 n..4 n + 3 at bit 2 n; value = code + 32
struct PackedWeight {
  int64_t in_features, out_features;
  Storage storage;
  Compute compute;
  int64_t group;              // inputs that share one weight scale
  int64_t segment, padded_segment, num_segments;
  int64_t segments_per_scale, num_scales;
  int64_t segments_per_activation_scale;
  const uint8_t *values;      // panels
  int64_t panel_bytes;
  Storage scale_storage;      // floating point
  const void *scales;         // [panel][scale][lane], integer storage only
  const uint16_t *zero_points; // the same in bfloat16, which holds each exactly; or null: symmetric
};

// Inputs made ready for one weight: see prepare_input in algorithms/linear.inl for the three forms.
struct LinearInput {
  const float *x;             // rows x in_features, as given
  int64_t x_stride;
  void *values;               // rows x values_stride: bfloat16 bits or int8, by compute; unused for float32
  int64_t values_stride;
  float *scales;              // int8: rows x num_activation_scales
  int64_t num_activation_scales;
  int32_t *integer_sums;      // int8: rows x num_segments, sum of the quantized inputs
  float *float_sums;          // bfloat16 with integer codes: rows x num_segments
  bool batch_invariant;       // sum in an order that does not depend on the number of rows
};

struct LinearOutput {
  float *y;                   // rows x out_features
  int64_t y_stride;
  const float *bias;          // out_features, or null
};

struct AttendArguments {
  const float *q;             // tokens x heads x head_dim
  float *out;                 // the same
  const void *cache;          // blocks
  CacheLayout layout;
  int64_t num_heads, max_blocks;
  const int32_t *block_tables;    // sequences x max_blocks
  const int32_t *query_starts;    // sequences + 1
  const int32_t *context_lengths; // sequences
  float scale, softcap;           // softcap 0: none
  int64_t window;                 // 0: none
  int64_t keep_first;             // the first keys of a sequence, which a window does not hide
  const float *sinks;             // num_heads: a logit of every softmax that has no value; or null
  bool batch_invariant;           // the same bits whatever the number of rows
  float *partials;                // room for what tasks leave for attend_merge
};

// Sequences of one new token each whose first keys lie in the same blocks: these are read once for all of them, and what they give
// is left at arguments.partials + partials, [kv_head][chunk][sequence][head of the group].
struct SharedKeys {
  const int32_t *sequences;
  int32_t count;
  int64_t key_end; // whole tiles
  int64_t partials;

  int64_t chunks() const { return (key_end + kKeyChunk - 1) / kKeyChunk; }
};

// Queries [query_begin, query_end) of a sequence against one key/value head. Unless `partials` is -1, what
// the chunks of keys [chunk_begin, chunk_end) give is left for attend_merge: first_chunk's at arguments.partials + partials,
// the others after it. With `shared` the task is the shared keys themselves for all of their sequences (place -1), or begins
// behind them, for the sequence at this place among theirs.
struct AttendTask {
  int32_t sequence, kv_head, query_begin, query_end;
  int32_t chunk_begin, chunk_end, first_chunk;
  int64_t partials;
  const SharedKeys *shared;
  int32_t place;

  bool is_common() const { return shared && place < 0; }
};

// Weights to codes of at most eight bits, to nearest; each run of `group` inputs of a row gets a scale.
struct RoundingArguments {
  const void *weight;         // rows x width without gaps, floating point as `source` says
  Storage source;
  int64_t width, group;       // group divides width
  float minimum, maximum;     // of the codes
  bool symmetric;
  Storage scale_storage;      // floating point: a scale is rounded to it before it is used
  int8_t *codes;              // rows x width
  void *scales;               // rows x (width / group)
  int8_t *zero_points;        // the same, unless symmetric
};

constexpr int kGptqRun = 8; // columns whose updates from earlier errors run side by side

struct GptqArguments {
  const float *weight; // rows x width with a stride
  int64_t weight_stride, width;
  const float *factors; // the upper factor U of the inverse Hessian: [run of columns][width][kGptqRun], missing columns zero
  const float *ratios;  // of the weights' range, one scale to try for each
  int64_t num_ratios;   // 0: scales and zero points are given
  float minimum, maximum; // of the codes
  bool symmetric;
  CacheType scale_type; // what a chosen scale is rounded to
  int8_t *codes;        // rows x width with a stride
  int64_t codes_stride;
  float *scales, *zero_points; // rows; written where ratios are given
  float *losses;        // rows
};

// One row of logits, how to choose a token from it, and where to put what is asked for beside the token.
struct SampleArguments {
  const float *logits;         // vocab
  int64_t vocab;
  const int32_t *edit_tokens;  // num_edits, each token once
  const float *edit_factors;   // a positive logit is divided by its factor, a negative one multiplied
  const float *edit_shifts;    // added after that; minus infinity forbids the token
  int64_t num_edits;
  const uint32_t *mask;        // null, or a bit for each token, the lowest first: those with 0 are forbidden
  float inverse_temperature;   // 0: the largest logit, the first of those that tie
  int64_t top_k;               // 0: all
  double top_p, min_p;         // 1 and 0: all
  uint64_t random;             // decides the draw
  int64_t num_top;             // most likely tokens to list with log probabilities; -1: no log probabilities
  float *log_probability;      // of the chosen token
  int32_t *top_tokens;         // num_top
  float *top_log_probabilities;
  int64_t *num_kept;           // null, or where to count what the filters leave, listed in
  int32_t *kept_tokens;        // vocab
  float *kept_shares;          // vocab
};

// sums += x^T x; of what lies below the diagonal nothing is promised.
struct GramArguments {
  const float *x;             // rows x width
  int64_t x_stride, rows, width;
  bool rounded;               // x to bfloat16 first
  float *sums;                // width x width
  int64_t sums_stride;
  void *packed;               // gram_packed_bytes(), filled by gram_pack()
};

struct KernelTable {
  const char *name;
  void (*prepare_input)(const PackedWeight &, const LinearInput &, int64_t row_begin, int64_t row_end);
  void (*linear)(const PackedWeight &, const LinearInput &, const LinearOutput &, int64_t panel_begin,
                 int64_t panel_end, int64_t row_begin, int64_t row_end, float *workspace);
  int64_t (*linear_workspace)(const PackedWeight &);
  int64_t panels_per_tile; // a task should hold a multiple of this many panels
  int64_t most_rows_per_task;
  void (*rms_norm)(const float *x, const float *weight, float *out, int64_t width, float epsilon, float weight_offset,
                   int64_t row_begin, int64_t row_end);
  void (*rope)(const float *x, const float *cosine, const float *sine, float *out, int64_t num_heads, int64_t head_dim,
               int64_t rotary_dim, int64_t row_begin, int64_t row_end);
  // gate_up is rows x 2 width without gaps; out may be gate_up, with rows 2 width apart.
  void (*act_mul)(const float *gate_up, float *out, int64_t out_stride, int64_t width, Activation, int64_t row_begin, int64_t row_end);
  void (*add)(const float *x, const float *y, float *out, float alpha, int64_t begin, int64_t end);
  void (*cap)(const float *x, float *out, float scale, float softcap, int64_t begin, int64_t end); // softcap 0: none
  void (*cache_write)(const CacheLayout &, const float *k, const float *v, uint8_t *cache, const int64_t *slots, int64_t tokens,
                      int64_t head_begin, int64_t head_end);
  void (*attend)(const AttendArguments &, const AttendTask &, float *workspace);
  void (*attend_merge)(const AttendArguments &, const AttendTask &); // a task of all chunks that others have computed
  int64_t (*attend_partial_floats)(const CacheLayout &);              // of one chunk and one row
  int64_t (*attend_workspace)(const AttendArguments &, int64_t max_queries_per_task);
  void (*round_weights)(const RoundingArguments &, int64_t row_begin, int64_t row_end);
  void (*gptq_group)(const GptqArguments &, int64_t row_begin, int64_t row_end, float *workspace);
  int64_t (*gptq_workspace)(const GptqArguments &);
  int64_t (*gram_packed_bytes)(const GramArguments &); // 0: gram() needs nothing packed
  void (*gram_pack)(const GramArguments &, int64_t panel_begin, int64_t panel_end);
  void (*gram)(const GramArguments &, int64_t i_begin, int64_t i_end, int64_t j_begin, int64_t j_end, float *workspace);
  int64_t (*gram_workspace)();
  // For measuring the machine: read `count` bytes, a multiple of 256; multiply in registers and return how many
  // multiplications and additions that was. `sink` (16 floats) receives something, so that nothing is left out. The inputs of
  // the first two are int8, the codes of the first four bits.
  int32_t (*read_all)(const uint8_t *bytes, int64_t count);
  int64_t (*multiply_int4)(int64_t repeats, float *sink);
  int64_t (*multiply_int8)(int64_t repeats, float *sink);
  int64_t (*multiply_bfloat16)(int64_t repeats, float *sink);
  int64_t (*sample)(const SampleArguments &, float *workspace); // the token, or -1: the logits are not finite
  int64_t (*sample_workspace)(int64_t vocab);
};

namespace generic { const KernelTable &kernels(); }
namespace avx2 { const KernelTable &kernels(); }
namespace avx512vnni { const KernelTable &kernels(); }
namespace avx512 { const KernelTable &kernels(); }
namespace amx { const KernelTable &kernels(); }

} // namespace flyweight
