// Which of the kernels this processor runs.
#include <cstdlib>
#include <cstring>

#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace advrbd::cpu {
namespace {

#if defined(__x86_64__)
// GCC 10's __builtin_cpu_supports does not know it.
bool supports_f16c() {
  unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

bool supports_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && supports_f16c();
}

bool supports_avx512() {
  return supports_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

// PyTorch's own variable for its kernels: "default", "avx2" or "avx512" at most.
bool allowed(const char* capability) {
  const char* most = std::getenv("ATEN_CPU_CAPABILITY");
  if (most == nullptr || std::strcmp(most, capability) == 0) {
    return true;
  }
  return std::strcmp(most, "default") != 0 && std::strcmp(most, "avx2") != 0;
}

const Kernels& best() {
  __builtin_cpu_init();
  if (supports_avx512() && allowed("avx512")) {
    return kAvx512Kernels;
  }
  return supports_avx2() && allowed("avx2") ? kAvx2Kernels : kBaselineKernels;
}
#else
const Kernels& best() {
  return kBaselineKernels;
}
#endif

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = best();
  return chosen;
}

}  // namespace advrbd::cpu
