#include "patch_origins.cuh"

#include "launch_kernel.h"

namespace advrbd::cuda {

void launch(const OriginsTask& task, cudaStream_t stream) {
  const int64_t count = task.num_masks * task.samples;
  if (count > 0) {
    launch_kernel(patch_origins_kernel, {"patch_origins_kernel"}, divide_up(count, kThreads), 0, stream, task);
  }
}

}  // namespace advrbd::cuda
