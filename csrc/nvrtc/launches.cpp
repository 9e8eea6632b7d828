// The launches of csrc/cuda, each by its kernel's name. The kernels are compiled here too, for their types, and never run.
#include <cstdlib>

#include "language.h"

dim3 threadIdx, blockIdx, gridDim;

static void __syncthreads() {
  std::abort();
}

static float __shfl_xor_sync(unsigned int, float, int) {
  std::abort();
}

namespace advrbd::cuda {
int4 shared_memory[1];
}

#include "../cuda/kl_divergence.cu"
#include "../cuda/patch_origins.cu"
#include "../cuda/perturb.cu"
#include "../cuda/philox_uniform.cu"
#include "../cuda/score_step.cu"
