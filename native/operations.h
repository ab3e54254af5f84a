// What a caller asks for: checks nothing (the facade has), makes room, cuts the work into tasks, runs the kernels.
#pragma once

#include "linear_handle.h"

namespace flyweight {

// x: rows x in_features with a stride; y: rows x out_features with one; bias may be null.
void linear(const LinearHandle &handle, const float *x, int64_t x_stride, int64_t rows, const float *bias, float *y, int64_t y_stride);

void rms_norm(const float *x, const float *weight, float *out, int64_t rows, int64_t width, float epsilon, float weight_offset);
void rope(const float *x, const float *cosine, const float *sine, float *out, int64_t tokens, int64_t num_heads,
          int64_t head_dim, int64_t rotary_dim);
void act_mul(const float *gate_up, float *out, int64_t out_stride, int64_t rows, int64_t width, Activation activation);
void add(const float *x, const float *y, float *out, float alpha, int64_t count);

void cap(const float *x, float *out, float scale, float softcap, int64_t count);

// Stores token i of k and v (tokens x kv_heads x head_dim) in slot slots[i] of the cache.
void cache_write(const CacheLayout &layout, const float *k, const float *v, void *cache, const int64_t *slots, int64_t tokens);
void attend(const AttendArguments &arguments, int64_t num_sequences);
// packed: rows of row_bytes that hold `columns` elements of `bits` bits (2 to 8) as one little-endian stream, unsigned with an
// offset of 2^(bits - 1); codes: rows x columns, signed.
void unpack_codes(const uint8_t *packed, int64_t row_bytes, int bits, int64_t rows, int64_t columns, int8_t *codes);

// Best of `attempts` on all threads: bytes per second of a plain read of `bytes`; multiplications and additions per second
// in registers, of codes of four bits with int8, of int8 or of bfloat16.
enum class Product : int32_t { kInt4, kInt8, kBfloat16 };
double measure_read(int64_t bytes, int attempts);
double measure_multiply(Product product, int attempts);


// sums (width x width) += x^T x on and above the diagonal; below it nothing is promised. x: rows x width with a stride.
void gram(const float *x, int64_t x_stride, int64_t rows, int64_t width, bool rounded, float *sums);
void round_weights(const RoundingArguments &arguments, int64_t rows);
// The columns of one group by GPTQ. inverse_cholesky: width x width, upper; arguments.factors is made of it here.
void gptq_group(GptqArguments arguments, const float *inverse_cholesky, int64_t rows);

// The bits that decide draw number `purpose` at `position` of a stream: Philox 4x64, first word.
uint64_t random_word(uint64_t seed, uint64_t stream, uint64_t position, uint64_t purpose);
// One token for each row; -1 where its logits are not finite.
void sample(const SampleArguments *rows, int64_t num_rows, int64_t *tokens);

} // namespace flyweight
