// What every kernel here needs. Nothing is included from PyTorch, so that a kernel compiles in seconds; and kernels are
// launched by a function call and get their shared memory from one, so that a C++ compiler can build these files to run
// on a CPU (tests/emulation).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "launch.h"

namespace advrbd::cuda {

constexpr int kThreads = 256;
constexpr int kWarp = 32;

inline int64_t divide_up(int64_t value, int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

inline void check(cudaError_t error) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA error: ") + cudaGetErrorString(error));
  }
}

// Launches at most `blocks` blocks of kThreads; a kernel strides over the rest.
template <typename... Parameters, typename... Arguments>
void launch_kernel(
    void (*kernel)(Parameters...), int64_t blocks, size_t shared_bytes, cudaStream_t stream,
    const Arguments&... arguments) {
  constexpr int64_t kMaxBlocks = int64_t{1} << 30;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned int>(std::min(blocks, kMaxBlocks)));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, arguments...));
  check(cudaGetLastError());
}

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

template <typename Scalar>
struct Type {
  using type = Scalar;
};

// Calls `launch` with the type of the task's values.
template <typename Task, typename Launch>
void with_type_of(const Task& task, Launch launch) {
  switch (task.dtype) {
    case Dtype::float32:
      return launch(Type<float>{});
    case Dtype::bfloat16:
      return launch(Type<__nv_bfloat16>{});
    case Dtype::float16:
      return launch(Type<__half>{});
  }
}

}  // namespace advrbd::cuda
