// One launch for each op on a GPU. Nothing is launched for an empty task.
#pragma once

#include <cuda_runtime_api.h>

#include "../tasks.h"

namespace advrbd::cuda {

void launch(const PerturbTask& task, cudaStream_t stream);
void launch(const KlTask& task, cudaStream_t stream);
void launch(const KlTask& kl, const PerturbTask& perturb, cudaStream_t stream);  // score_step
void launch(const OriginsTask& task, cudaStream_t stream);
void launch(const UniformTask& task, cudaStream_t stream);

}  // namespace advrbd::cuda
