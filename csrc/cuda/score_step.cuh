// Both halves in one kernel: its first blocks take rows of logits, the others pieces of images.
#pragma once

#include "kl_divergence.cuh"
#include "perturb.cuh"

namespace advrbd::cuda {

template <typename LogitScalar, typename ImageScalar, int kValues, bool kRegular>
__global__ void __launch_bounds__(kThreads, kBlocks) score_step_kernel(
    const __grid_constant__ KlTask kl, const __grid_constant__ PerturbTask perturb,
    const __grid_constant__ Pieces pieces, int64_t kl_blocks) {
  // Every thread of a block takes the same branch, so the barriers in perturb_piece are safe.
  for (int64_t block = blockIdx.x; block < kl_blocks + pieces.count; block += gridDim.x) {
    if (block < kl_blocks) {
      divergence_of_block<LogitScalar>(kl, block);
    } else {
      perturb_piece<ImageScalar, kValues, kRegular>(perturb, pieces, block - kl_blocks);
    }
  }
}

}  // namespace advrbd::cuda
