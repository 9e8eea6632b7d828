#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in GCC 12's own header
#endif
#define ADVRBD_CAPABILITY avx512
#define ADVRBD_LANES 16
#include "body.inc"

const advrbd::cpu::Kernels advrbd::cpu::kAvx512Kernels{"AVX-512", &avx512::run_perturb, &avx512::run_kl_divergence};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
