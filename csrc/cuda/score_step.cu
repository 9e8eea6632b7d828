#include "score_step.cuh"

#include "cover.h"

namespace advrbd::cuda {

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
    with_vectors_of(perturb, [&](auto image_type, auto values, auto regular) {
      using LogitScalar = typename decltype(logit_type)::type;
      using ImageScalar = typename decltype(image_type)::type;
      const KernelName name{"score_step_kernel", {kTypeName<LogitScalar>, kTypeName<ImageScalar>}, values(), regular()};
      const Pieces pieces = pieces_of<values()>(perturb);
      launch_kernel(
          score_step_kernel<LogitScalar, ImageScalar, values(), regular()>, name, kl_blocks + pieces.count,
          pieces.shared_bytes, stream, kl, perturb, pieces, kl_blocks);
    });
  });
}

}  // namespace advrbd::cuda
