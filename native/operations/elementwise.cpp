#include "operations.h"

#include "dispatch.h"
#include "operations/scratch.h"

namespace flyweight {

void rms_norm(const float *x, const float *weight, float *out, int64_t rows, int64_t width, float epsilon, float weight_offset) {
  const KernelTable &kernels = active_kernels();
  over_ranges(rows, width, 1, [&](int64_t begin, int64_t end, int) { kernels.rms_norm(x, weight, out, width, epsilon, weight_offset, begin, end); });
}

void rope(const float *x, const float *cosine, const float *sine, float *out, int64_t tokens, int64_t num_heads,
          int64_t head_dim, int64_t rotary_dim) {
  const KernelTable &kernels = active_kernels();
  over_ranges(tokens, num_heads * head_dim, 1, [&](int64_t begin, int64_t end, int) {
    kernels.rope(x, cosine, sine, out, num_heads, head_dim, rotary_dim, begin, end);
  });
}

void act_mul(const float *gate_up, float *out, int64_t out_stride, int64_t rows, int64_t width, Activation activation) {
  const KernelTable &kernels = active_kernels();
  over_ranges(rows, width * 8, 1, [&](int64_t begin, int64_t end, int) { kernels.act_mul(gate_up, out, out_stride, width, activation, begin, end); });
}

void add(const float *x, const float *y, float *out, float alpha, int64_t count) {
  const KernelTable &kernels = active_kernels();
  over_ranges(count, 1, 1024, [&](int64_t begin, int64_t end, int) { kernels.add(x, y, out, alpha, begin, end); });
}

void cap(const float *x, float *out, float scale, float softcap, int64_t count) {
  const KernelTable &kernels = active_kernels();
  over_ranges(count, 8, 1024, [&](int64_t begin, int64_t end, int) { kernels.cap(x, out, scale, softcap, begin, end); });
}

} // namespace flyweight
