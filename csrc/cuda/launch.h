#pragma once

#include <cuda_runtime_api.h>

#include "../tasks.h"

namespace advrbd::cuda {

// Either task may be empty; nothing is launched where both are.
void launch(const KlTask& kl, const PerturbTask& perturb, cudaStream_t stream);
void launch(const OriginsTask& task, cudaStream_t stream);

}  // namespace advrbd::cuda
