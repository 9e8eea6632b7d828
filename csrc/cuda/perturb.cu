#include "perturb.cuh"

namespace advrbd::cuda {
namespace {

template <typename Scalar, int kValues>
__global__ void __launch_bounds__(kThreads)
    perturb_kernel(const __grid_constant__ PerturbTask task, int64_t pieces_per_image, int64_t pieces) {
  for (int64_t piece = blockIdx.x; piece < pieces; piece += gridDim.x) {
    perturb_piece<Scalar, kValues>(task, piece, pieces_per_image);
  }
}

}  // namespace

void launch(const PerturbTask& task, cudaStream_t stream) {
  if (task.samples == 0) {
    return;
  }
  with_vectors_of(task, [&](auto type, auto values) {
    const Pieces pieces = pieces_of<values()>(task);
    launch_kernel(
        perturb_kernel<typename decltype(type)::type, values()>, pieces.count, pieces.shared_bytes, stream, task,
        pieces.per_image, pieces.count);
  });
}

}  // namespace advrbd::cuda
