// How the host launches a kernel: by CUDA's runtime, or, with ADVRBD_NVRTC, by its name (nvrtc/program.h).
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernel.cuh"
#include "kernel_name.h"
#include "launch.h"

#if defined(ADVRBD_NVRTC)
#include "nvrtc/program.h"
#endif

namespace advrbd::cuda {

inline int64_t divide_up(int64_t value, int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

template <typename Scalar>
constexpr const char* kTypeName = nullptr;
template <>
inline constexpr const char* kTypeName<float> = "float";
template <>
inline constexpr const char* kTypeName<__nv_bfloat16> = "__nv_bfloat16";
template <>
inline constexpr const char* kTypeName<__half> = "__half";

#if !defined(ADVRBD_NVRTC)
inline void check(cudaError_t error) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA error: ") + cudaGetErrorString(error));
  }
}
#endif

// Launches at most `blocks` blocks of kThreads; a kernel strides over the rest. Arguments have the types of the kernel's
// parameters.
template <typename... Parameters>
void launch_kernel(
    void (*kernel)(Parameters...), const KernelName& name, int64_t blocks, size_t shared_bytes, cudaStream_t stream,
    const std::remove_const_t<Parameters>&... arguments) {
  constexpr int64_t kMaxBlocks = int64_t{1} << 30;
  const auto grid = static_cast<unsigned int>(std::min(blocks, kMaxBlocks));
#if defined(ADVRBD_NVRTC)
  const void* pointers[] = {&arguments...};
  nvrtc::launch(name, grid, kThreads, shared_bytes, stream, const_cast<void**>(pointers));
#else
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, arguments...));
  check(cudaGetLastError());
#endif
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
