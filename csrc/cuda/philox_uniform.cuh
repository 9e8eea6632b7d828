#pragma once

#include "kernel.cuh"

namespace advrbd::cuda {

__global__ void __launch_bounds__(kThreads) philox_uniform_kernel(const __grid_constant__ UniformTask task) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < task.samples; i += stride) {
    draw(task, i);
  }
}

}  // namespace advrbd::cuda
