#define ADVRBD_CAPABILITY baseline
#define ADVRBD_LANES 4
#include "body.inc"

const advrbd::cpu::Kernels advrbd::cpu::kBaselineKernels{
    "baseline", &baseline::run_perturb, &baseline::run_kl_divergence};
