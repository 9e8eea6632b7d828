#include "philox_uniform.cuh"

#include "launch_kernel.h"

namespace advrbd::cuda {

void launch(const UniformTask& task, cudaStream_t stream) {
  if (task.samples > 0) {
    launch_kernel(philox_uniform_kernel, {"philox_uniform_kernel"}, divide_up(task.samples, kThreads), 0, stream, task);
  }
}

}  // namespace advrbd::cuda
