#include "launch.h"
#include "threads.h"

namespace advrbd::cpu {

void launch(const UniformTask& task) {
  constexpr int64_t kGrain = 4096;
  parallel_for(0, task.samples, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t sample = begin; sample < end; ++sample) {
      draw(task, sample);
    }
  });
}

}  // namespace advrbd::cpu
