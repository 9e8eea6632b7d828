// The little of the CUDA runtime that csrc/cuda uses, for a C++ compiler.
#pragma once

#include <cstddef>

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;

inline const char* cudaGetErrorString(cudaError_t) {
  return "of the emulated GPU";
}

inline cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
