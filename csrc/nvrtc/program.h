// Kernels that NVRTC compiles at run time, from the sources that nvcc compiles, launched by CUDA's driver: for a GPU
// without a compiler on its machine. Python compiles and keeps them (advrbd_plugin/ops/nvrtc.py).
#pragma once

#include <cstddef>

#include "../cuda/kernel_name.h"

namespace advrbd::nvrtc {

// The GPU that this thread's launches go to, by its number in CUDA.
void use_device(int device);

// `parameters` points to one pointer for each of the kernel's parameters. Throws std::runtime_error.
void launch(
    const cuda::KernelName& name, unsigned int blocks, unsigned int threads, size_t shared_bytes, void* stream,
    void** parameters);

}  // namespace advrbd::nvrtc
