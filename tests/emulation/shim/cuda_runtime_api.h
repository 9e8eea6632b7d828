// The little of the CUDA runtime that csrc/cuda uses, for a C++ compiler.
#pragma once

#include <cstddef>

using cudaStream_t = void*;
