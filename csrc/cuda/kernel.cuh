// What every kernel here needs, for nvcc, for NVRTC (nvrtc/) and for the C++ compiler of tests/emulation: nothing is
// included from PyTorch, and a kernel gets its shared memory from a function call.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>

#include "../tasks.h"

namespace advrbd::cuda {

constexpr int kThreads = 256;
constexpr int kWarp = 32;

// The block's shared memory, of the size that its launch asked for.
template <typename Value>
__device__ __forceinline__ Value* shared_values() {
  extern __shared__ int4 shared_memory[];  // int4: aligned to 16 bytes
  return reinterpret_cast<Value*>(shared_memory);
}

// A value as float, and back, rounded to nearest even.
__device__ __forceinline__ float to_float(float value) {
  return value;
}
__device__ __forceinline__ float to_float(__nv_bfloat16 value) {
  return __bfloat162float(value);
}
__device__ __forceinline__ float to_float(__half value) {
  return __half2float(value);
}
template <typename Scalar>
__device__ __forceinline__ Scalar from_float(float value);
template <>
__device__ __forceinline__ float from_float(float value) {
  return value;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ __forceinline__ __half from_float(float value) {
  return __float2half_rn(value);
}

}  // namespace advrbd::cuda
