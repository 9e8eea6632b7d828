// The CPU kernels, compiled once for each instruction set; the best is chosen at run time (one binary serves every
// x86-64). The files that compile them include no header that may emit an inline function, or the linker could pick the
// AVX-512 copy for everyone.
#pragma once

#include "../../tasks.h"

namespace advrbd::cpu {

constexpr int64_t kMostLanes = 16;  // floats in a register of the widest kind

// Floats of scratch memory that a thread gives to Kernels::kl_divergence.
ADVRBD_INLINE int64_t kl_scratch_size(int64_t classes) {
  return 4 * kMostLanes * classes;
}

// The bounds of the values in one row of a patch, laid out like that row.
struct RowBounds {
  const float* epsilon;
  const float* low;
  const float* high;
};

struct Kernels {
  const char* instruction_set;
  void (*perturb)(const PerturbTask& task, const RowBounds* row_bounds, int64_t begin, int64_t end);
  void (*kl_divergence)(const KlTask& task, float* scratch, int64_t begin, int64_t end);
};

extern const Kernels kBaselineKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

// The best that this processor runs.
const Kernels& kernels();

}  // namespace advrbd::cpu
