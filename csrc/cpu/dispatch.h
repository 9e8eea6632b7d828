// One binary for every x86-64: a kernel is compiled for several instruction sets and the best is chosen at run time.
#pragma once

#include "../arithmetic.h"

namespace advrbd::cpu {

enum class Capability { baseline, avx2, avx512 };

inline Capability capability() {
#if defined(__x86_64__)
  static const Capability found = [] {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")) {
      return Capability::avx512;
    }
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? Capability::avx2 : Capability::baseline;
  }();
  return found;
#else
  return Capability::baseline;
#endif
}

inline const char* capability_name() {
  switch (capability()) {
    case Capability::avx512:
      return "AVX-512";
    case Capability::avx2:
      return "AVX2";
    default:
      return "baseline";
  }
}

// Kernel::run and all it calls are always_inline, so each wrapper holds its own copy for its own instruction set, and
// nothing built for AVX-512 can be linked into code that runs elsewhere.
#if defined(__x86_64__)
template <typename Kernel, typename... Arguments>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512"))) void run_avx512(
    Arguments... arguments) {
  Kernel::run(arguments...);
}

template <typename Kernel, typename... Arguments>
__attribute__((target("avx2,fma"))) void run_avx2(Arguments... arguments) {
  Kernel::run(arguments...);
}
#endif

template <typename Kernel, typename... Arguments>
void run_baseline(Arguments... arguments) {
  Kernel::run(arguments...);
}

template <typename Kernel, typename... Arguments>
void dispatch(Arguments... arguments) {
  switch (capability()) {
#if defined(__x86_64__)
    case Capability::avx512:
      return run_avx512<Kernel>(arguments...);
    case Capability::avx2:
      return run_avx2<Kernel>(arguments...);
#endif
    default:
      return run_baseline<Kernel>(arguments...);
  }
}

}  // namespace advrbd::cpu
