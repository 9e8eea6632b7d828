// The words of the CUDA language for a C++ compiler, included before a kernel's file as nvcc includes its own.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__

struct dim3 {
  unsigned int x, y = 1, z = 1;
  dim3(unsigned int size = 1) : x(size) {}
};
struct alignas(16) int4 {
  int x, y, z, w;
};

extern dim3 threadIdx, blockIdx, gridDim;

inline uint32_t __umulhi(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>((uint64_t{a} * b) >> 32);
}
