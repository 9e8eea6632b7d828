// Both halves in one kernel: its first blocks take rows of logits, the others pieces of images.
#include "kl_divergence.cuh"
#include "perturb.cuh"

namespace advrbd::cuda {
namespace {

template <typename LogitScalar, typename ImageScalar, int kValues, bool kInRows>
__global__ void __launch_bounds__(kThreads) score_step_kernel(
    const __grid_constant__ KlTask kl, const __grid_constant__ PerturbTask perturb,
    const __grid_constant__ Pieces pieces, int64_t kl_blocks) {
  // Every thread of a block takes the same branch, so the barriers in perturb_piece are safe.
  for (int64_t block = blockIdx.x; block < kl_blocks + pieces.count; block += gridDim.x) {
    if (block < kl_blocks) {
      divergence_of_block<LogitScalar>(kl, block);
    } else {
      perturb_piece<ImageScalar, kValues, kInRows>(perturb, pieces, block - kl_blocks);
    }
  }
}

}  // namespace

// A launch without one of the halves is the other op's, and pays nothing for what is absent.
void launch(const KlTask& kl, const PerturbTask& perturb, cudaStream_t stream) {
  const int64_t kl_blocks = blocks_of(kl);
  if (kl_blocks == 0) {
    return launch(perturb, stream);
  }
  if (perturb.samples == 0) {
    return launch(kl, stream);
  }
  with_type_of(kl, [&](auto logit_type) {
    with_vectors_of(perturb, [&](auto image_type, auto values, auto in_rows) {
      const Pieces pieces = pieces_of<values()>(perturb);
      launch_kernel(
          score_step_kernel<
              typename decltype(logit_type)::type, typename decltype(image_type)::type, values(), in_rows()>,
          kl_blocks + pieces.count, pieces.shared_bytes, stream, kl, perturb, pieces, kl_blocks);
    });
  });
}

}  // namespace advrbd::cuda
