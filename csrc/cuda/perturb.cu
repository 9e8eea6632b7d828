#include "perturb.cuh"

namespace advrbd::cuda {
namespace {

template <typename Scalar, int kValues, bool kInRows>
__global__ void __launch_bounds__(kThreads)
    perturb_kernel(const __grid_constant__ PerturbTask task, const __grid_constant__ Pieces pieces) {
  for (int64_t piece = blockIdx.x; piece < pieces.count; piece += gridDim.x) {
    perturb_piece<Scalar, kValues, kInRows>(task, pieces, piece);
  }
}

}  // namespace

void launch(const PerturbTask& task, cudaStream_t stream) {
  if (task.samples == 0) {
    return;
  }
  with_vectors_of(task, [&](auto type, auto values, auto in_rows) {
    const Pieces pieces = pieces_of<values()>(task);
    launch_kernel(
        perturb_kernel<typename decltype(type)::type, values(), in_rows()>, pieces.count, pieces.shared_bytes, stream,
        task, pieces);
  });
}

}  // namespace advrbd::cuda
