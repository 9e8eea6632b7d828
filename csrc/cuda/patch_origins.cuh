#pragma once

#include "kernel.cuh"

namespace advrbd::cuda {

__global__ void __launch_bounds__(kThreads) patch_origins_kernel(const __grid_constant__ OriginsTask task) {
  const int64_t count = task.num_masks * task.samples;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += stride) {
    const auto mask = static_cast<uint32_t>(i / task.samples);
    const Origin origin = patch_origin(task.seed, task.sample_ids[i % task.samples], mask, task.grid);
    task.origins[2 * i] = origin.row;
    task.origins[2 * i + 1] = origin.column;
  }
}

}  // namespace advrbd::cuda
