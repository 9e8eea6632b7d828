#include "launch.h"

#include <ATen/Parallel.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <new>
#include <vector>

#include "kernels.h"

namespace advrbd::cpu {
namespace {

// A thread must have about this much work to itself before a second one pays, in values that are copied.
constexpr int64_t kWorkPerThread = 32768;
constexpr int64_t kWorkPerLogit = 4;

constexpr int64_t kCacheLine = 64;

// The bounds of each plane's patch row, so that the inner loop is the same for both memory formats.
class BoundsTable {
 public:
  explicit BoundsTable(const PerturbTask& task) {
    const ImageLayout layout = task.layout;
    const int64_t row_values = int64_t{task.patch_size} * layout.interleaved;
    values_.resize(3 * layout.planes * row_values);
    float* next = values_.data();
    for (int32_t plane = 0; plane < layout.planes; ++plane) {
      rows_.push_back({next, next + row_values, next + 2 * row_values});
      for (int64_t i = 0; i < row_values; ++i) {
        const StepBounds bounds = task.bounds.of(plane + static_cast<int32_t>(i % layout.interleaved));
        next[i] = bounds.epsilon;
        next[row_values + i] = bounds.low;
        next[2 * row_values + i] = bounds.high;
      }
      next += 3 * row_values;
    }
  }

  const RowBounds* rows() const {
    return rows_.data();
  }

 private:
  std::vector<float> values_;
  std::vector<RowBounds> rows_;
};

// Uninitialised. A vector that lies across two cache lines takes twice as long to load.
class AlignedFloats {
 public:
  explicit AlignedFloats(int64_t count)
      : values_(static_cast<float*>(::operator new(count * sizeof(float), std::align_val_t{kCacheLine}))) {}
  ~AlignedFloats() {
    ::operator delete(values_, std::align_val_t{kCacheLine});
  }
  AlignedFloats(const AlignedFloats&) = delete;
  AlignedFloats& operator=(const AlignedFloats&) = delete;

  float* get() const {
    return values_;
  }

 private:
  float* values_;
};

// A new block comes as pages that the first write to each must wait for: 500 times fewer where they may be huge.
void prefer_huge_pages(void* begin, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = uintptr_t{1} << 21;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t last = (reinterpret_cast<uintptr_t>(begin) + bytes) & ~(kHugePage - 1);
  if (first < last) {
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // advice: a failure changes nothing
  }
#endif
}

#if defined(__x86_64__)
// GCC 10's __builtin_cpu_supports does not know it.
bool supports_f16c() {
  unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

}  // namespace

const Kernels& kernels() {
#if defined(__x86_64__)
  static const Kernels& best = [&]() -> const Kernels& {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !supports_f16c()) {
      return kBaselineKernels;
    }
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
        ? kAvx512Kernels
        : kAvx2Kernels;
  }();
  return best;
#else
  return kBaselineKernels;
#endif
}

void launch(const KlTask& kl, const PerturbTask& perturb) {
  const BoundsTable bounds(perturb);
  const int64_t perturbed_values = perturb.num_masks * perturb.samples * perturb.layout.values();
  const int64_t work = kWorkPerLogit * kl.rows * (1 + kl.num_masks) * kl.classes + perturbed_values;
  const int64_t shares = std::clamp<int64_t>(work / kWorkPerThread, 1, at::get_num_threads());
  prefer_huge_pages(perturb.perturbed, perturbed_values * bytes_of(perturb.dtype));
  // Every share holds its part of both tasks, so that the threads finish together.
  at::parallel_for(0, shares, 1, [&](int64_t first, int64_t last) {
    const int64_t row_begin = kl.rows * first / shares, row_end = kl.rows * last / shares;
    if (row_begin < row_end) {
      const AlignedFloats scratch(kl_scratch_size(kl.classes));
      kernels().kl_divergence(kl, scratch.get(), row_begin, row_end);
    }
    const int64_t begin = perturb.samples * first / shares, end = perturb.samples * last / shares;
    if (begin < end) {
      kernels().perturb(perturb, bounds.rows(), begin, end);
    }
  });
}

void launch(const OriginsTask& task) {
  constexpr int64_t kGrain = 4096;
  at::parallel_for(0, task.num_masks * task.samples, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint32_t mask = static_cast<uint32_t>(i / task.samples);
      const Origin origin = patch_origin(task.seed, task.sample_ids[i % task.samples], mask, task.grid);
      task.origins[2 * i] = origin.row;
      task.origins[2 * i + 1] = origin.column;
    }
  });
}

}  // namespace advrbd::cpu
