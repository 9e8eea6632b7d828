#include "launch.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "kernels.h"

namespace advrbd::cpu {
namespace {

// A thread must have about this many values to itself before a second one pays.
constexpr int64_t kValuesPerThread = 32768;

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

}  // namespace

const Kernels& kernels() {
#if defined(__x86_64__)
  static const Kernels& best = [&]() -> const Kernels& {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      return kAvx512Kernels;
    }
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? kAvx2Kernels : kBaselineKernels;
  }();
  return best;
#else
  return kBaselineKernels;
#endif
}

void launch(const KlTask& kl, const PerturbTask& perturb) {
  const BoundsTable bounds(perturb);
  const int64_t values =
      kl.rows * kl.num_masks * kl.classes + perturb.samples * perturb.num_masks * perturb.layout.values();
  const int64_t shares = std::clamp<int64_t>(values / kValuesPerThread, 1, 4 * int64_t{at::get_num_threads()});
  // Every share holds its part of both tasks, so that the threads finish together.
  at::parallel_for(0, shares, 1, [&](int64_t first, int64_t last) {
    const int64_t row_begin = kl.rows * first / shares, row_end = kl.rows * last / shares;
    if (row_begin < row_end) {
      std::vector<float> scratch(kl_scratch_size(kl.classes));
      kernels().kl_divergence(kl, scratch.data(), row_begin, row_end);
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
