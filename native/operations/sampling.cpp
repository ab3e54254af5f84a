#include "operations.h"

#include "dispatch.h"
#include "operations/scratch.h"

namespace flyweight {
namespace {

// The constants and rounds of Philox 4x64-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3").
constexpr uint64_t kFirstFactor = 0xD2E7470EE14C6C93u, kSecondFactor = 0xCA5A826395121157u;
constexpr uint64_t kFirstStep = 0x9E3779B97F4A7C15u, kSecondStep = 0xBB67AE8584CAA73Bu;
constexpr int kRounds = 10;

} // namespace

uint64_t random_word(uint64_t seed, uint64_t stream, uint64_t position, uint64_t purpose) {
  uint64_t a = position, b = purpose, c = 0, d = 0;
  for (int round = 0; round < kRounds; ++round) {
    const auto first = static_cast<unsigned __int128>(kFirstFactor) * a, second = static_cast<unsigned __int128>(kSecondFactor) * c;
    a = static_cast<uint64_t>(second >> 64) ^ b ^ seed;
    b = static_cast<uint64_t>(second);
    c = static_cast<uint64_t>(first >> 64) ^ d ^ stream;
    d = static_cast<uint64_t>(first);
    seed += kFirstStep, stream += kSecondStep;
  }
  return a;
}

void sample(const SampleArguments *rows, int64_t num_rows, int64_t *tokens) {
  if (num_rows == 0) return;
  const KernelTable &kernels = active_kernels();
  const int64_t workspace = round_up(kernels.sample_workspace(rows->vocab), 16);
  Arena arena(thread_count() * workspace * 4 + 64);
  float *scratch = arena.take<float>(thread_count() * workspace);
  over_ranges(num_rows, rows->vocab * 8, 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t row = begin; row < end; ++row) tokens[row] = kernels.sample(rows[row], scratch + worker * workspace);
  });
}

} // namespace flyweight
