#include "dispatch.h"

#include <atomic>
#include <mutex>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace flyweight {
namespace {

// Whether the CPU has tile registers for bfloat16 and int8 and the system lets this process use them. Linux wants to be
// asked once: their 8 KiB make every thread's saved state larger.
bool tiles_are_usable() {
#if defined(__x86_64__) && defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kAskForState = 0x1023, kTileData = 18; // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  const unsigned wanted = 1u << 22 | 1u << 24 | 1u << 25; // AMX-BF16, AMX-TILE, AMX-INT8
  return (edx & wanted) == wanted && syscall(SYS_arch_prctl, kAskForState, kTileData) == 0;
#else
  return false;
#endif
}

std::vector<const KernelTable *> usable_tables() {
  std::vector<const KernelTable *> tables{&generic::kernels()};
#if defined(FLYWEIGHT_EMULATE)
  return {&generic::kernels(), &avx2::kernels(), &avx512vnni::kernels(), &avx512::kernels(), &amx::kernels()};
#elif defined(__x86_64__)
  __builtin_cpu_init();
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))) return tables;
  tables.push_back(&avx2::kernels());
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
    tables.push_back(&avx512vnni::kernels());
    if (!__builtin_cpu_supports("avx512bf16")) return tables;
    tables.push_back(&avx512::kernels());
    static const bool tiles = tiles_are_usable();
    if (tiles) tables.push_back(&amx::kernels());
  }
#endif
  return tables;
}

std::atomic<size_t> highest{~size_t{0}}; // how many of the usable tables may be used

std::vector<const KernelTable *> allowed_tables() {
  std::vector<const KernelTable *> tables = usable_tables();
  if (tables.size() > highest) tables.resize(highest);
  return tables;
}

std::atomic<const KernelTable *> &active() {
  static std::atomic<const KernelTable *> table{usable_tables().back()};
  return table;
}

std::atomic<bool> invariant{false};

std::mutex reason_mutex;
std::string reason_for_refusal;

} // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const KernelTable *table : allowed_tables()) names.emplace_back(table->name);
  return names;
}

const KernelTable &active_kernels() {
  if (const KernelTable *table = active().load(std::memory_order_acquire)) return *table;
  const std::lock_guard lock(reason_mutex);
  throw KernelsRefused(reason_for_refusal);
}

void refuse_kernels(const std::string &reason) {
  const std::lock_guard lock(reason_mutex);
  reason_for_refusal = reason;
  active().store(nullptr, std::memory_order_release);
}

bool limit_isa(const std::string &name) {
  const std::vector<const KernelTable *> tables = usable_tables();
  for (size_t i = 0; i < tables.size(); ++i)
    if (name == tables[i]->name) {
      highest = i + 1;
      return use_isa(name);
    }
  return false;
}

bool use_isa(const std::string &name) {
  for (const KernelTable *table : allowed_tables())
    if (name == table->name) {
      active().store(table, std::memory_order_release);
      return true;
    }
  return false;
}

bool batch_invariant() { return invariant.load(std::memory_order_relaxed); }
void set_batch_invariant(bool wanted) { invariant.store(wanted, std::memory_order_relaxed); }

} // namespace flyweight
