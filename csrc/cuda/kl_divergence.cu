#include "kl_divergence.cuh"

namespace advrbd::cuda {
namespace {

template <typename Scalar>
__global__ void __launch_bounds__(kThreads) kl_divergence_kernel(const __grid_constant__ KlTask task, int64_t blocks) {
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    divergence_of_block<Scalar>(task, block);
  }
}

}  // namespace

void launch(const KlTask& task, cudaStream_t stream) {
  const int64_t blocks = blocks_of(task);
  if (blocks == 0) {
    return;
  }
  with_type_of(task, [&](auto type) {
    launch_kernel(kl_divergence_kernel<typename decltype(type)::type>, blocks, 0, stream, task, blocks);
  });
}

}  // namespace advrbd::cuda
