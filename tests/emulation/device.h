// The CUDA language for a C++ compiler, included before each kernel file as nvcc includes its own. A block's threads are
// fibers, which run in a random order from one barrier or shuffle to the next (emulator.cpp).
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>

#include "language.h"

namespace emulator {

// Calls `thread` once for each thread of the grid.
void run(unsigned int blocks, unsigned int threads, size_t shared_bytes, const std::function<void()>& thread);
void wait_for_block();
uint32_t exchange(uint32_t mask, uint32_t value, int lane_xor);

}  // namespace emulator

inline void __syncthreads() {
  emulator::wait_for_block();
}

inline float __shfl_xor_sync(unsigned int mask, float value, int lane_xor) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits = emulator::exchange(mask, bits, lane_xor);
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(
    const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), const Arguments&... arguments) {
  const std::tuple<std::decay_t<Parameters>...> values(arguments...);
  emulator::run(config->gridDim.x, config->blockDim.x, config->dynamicSmemBytes, [&] { std::apply(kernel, values); });
  return cudaSuccess;
}
