#include "launch.h"
#include "threads.h"

namespace advrbd::cpu {

void launch(const OriginsTask& task) {
  constexpr int64_t kGrain = 4096;
  parallel_for(0, task.num_masks * task.samples, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint32_t mask = static_cast<uint32_t>(i / task.samples);
      const Origin origin = patch_origin(task.seed, task.sample_ids[i % task.samples], mask, task.grid);
      task.origins[2 * i] = origin.row;
      task.origins[2 * i + 1] = origin.column;
    }
  });
}

}  // namespace advrbd::cpu
