#include "kl_divergence.cuh"

#include "cover.h"

namespace advrbd::cuda {

void launch(const KlTask& task, cudaStream_t stream) {
  const int64_t blocks = blocks_of(task);
  if (blocks == 0) {
    return;
  }
  with_type_of(task, [&](auto type) {
    using Scalar = typename decltype(type)::type;
    const KernelName name{"kl_divergence_kernel", {kTypeName<Scalar>}};
    launch_kernel(kl_divergence_kernel<Scalar>, name, blocks, 0, stream, task, blocks);
  });
}

}  // namespace advrbd::cuda
