#include "perturb.cuh"

#include "cover.h"

namespace advrbd::cuda {

void launch(const PerturbTask& task, cudaStream_t stream) {
  if (task.samples == 0) {
    return;
  }
  with_vectors_of(task, [&](auto type, auto values, auto regular) {
    using Scalar = typename decltype(type)::type;
    const KernelName name{"perturb_kernel", {kTypeName<Scalar>}, values(), regular()};
    const Pieces pieces = pieces_of<values()>(task);
    launch_kernel(
        perturb_kernel<Scalar, values(), regular()>, name, pieces.count, pieces.shared_bytes, stream, task, pieces);
  });
}

}  // namespace advrbd::cuda
