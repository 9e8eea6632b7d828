#include "perturb.h"

#include "launch.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace advrbd::cpu {
namespace {

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

}  // namespace

PerturbJob::PerturbJob(const PerturbTask& task) : task_(task) {
  fill_bounds();
  prefer_huge_pages(task.perturbed, work() * bytes_of(task.dtype));
}

int64_t PerturbJob::work() const {
  return task_.num_masks * task_.samples * task_.layout.values();
}

void PerturbJob::run(Shares shares) const {
  const int64_t begin = shares.begin_of(task_.samples), end = shares.end_of(task_.samples);
  if (begin < end) {
    kernels().perturb(task_, rows_.data(), begin, end);
  }
}

void PerturbJob::fill_bounds() {
  const ImageLayout layout = task_.layout;
  const int64_t row_values = int64_t{task_.patch_size} * layout.interleaved;
  bounds_.resize(3 * layout.planes * row_values);
  float* next = bounds_.data();
  for (int32_t plane = 0; plane < layout.planes; ++plane) {
    rows_.push_back({next, next + row_values, next + 2 * row_values});
    for (int64_t i = 0; i < row_values; ++i) {
      const StepBounds bounds = task_.bounds.of(plane + static_cast<int32_t>(i % layout.interleaved));
      next[i] = bounds.epsilon;
      next[row_values + i] = bounds.low;
      next[2 * row_values + i] = bounds.high;
    }
    next += 3 * row_values;
  }
}

void launch(const PerturbTask& task) {
  run_in_threads(PerturbJob(task));
}

}  // namespace advrbd::cpu
