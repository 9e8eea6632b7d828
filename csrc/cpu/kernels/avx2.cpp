#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#define ADVRBD_CAPABILITY avx2
#define ADVRBD_LANES 8
#include "body.inc"

const advrbd::cpu::Kernels advrbd::cpu::kAvx2Kernels{"AVX2", &avx2::run_perturb, &avx2::run_kl_divergence};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
