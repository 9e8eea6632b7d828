// CUDA's driver for the emulated GPU, as libcuda.so.1: a kernel is found by the name that NVRTC gave it, and run from its
// parameters' addresses, as csrc/nvrtc/program.cpp hands them over.
#include <dlfcn.h>

#include <string>
#include <utility>

// First, as nvcc does.
#include "device.h"

#include "cuda/perturb.cuh"

namespace {

using namespace advrbd;

constexpr int kInvalidImage = 200, kNotFound = 500;

struct Function {
  std::string name;
  void* kernel;
};

template <typename... Parameters, size_t... kPlaces>
void run(const cudaLaunchConfig_t& config, void* kernel, void** parameters, std::index_sequence<kPlaces...>) {
  cudaLaunchKernelEx(
      &config, reinterpret_cast<void (*)(Parameters...)>(kernel), *static_cast<Parameters*>(parameters[kPlaces])...);
}

template <typename... Parameters>
void run(const cudaLaunchConfig_t& config, void* kernel, void** parameters) {
  run<Parameters...>(config, kernel, parameters, std::index_sequence_for<Parameters...>{});
}

}  // namespace

extern "C" {

int cuCtxGetCurrent(void** context) {
  *context = nullptr;
  return 0;
}

int cuDevicePrimaryCtxRetain(void** context, int) {
  *context = context;
  return 0;
}

int cuCtxSetCurrent(void* context) {
  return context == nullptr ? kInvalidImage : 0;
}

int cuModuleLoadData(void** module, const void* image) {
  *module = const_cast<void*>(image);
  return std::memcmp(
             image,
             "\x7f"
             "ELF",
             4) == 0
      ? 0
      : kInvalidImage;
}

int cuModuleGetFunction(void** function, void*, const char* name) {
  void* const self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  void* const kernel = self == nullptr ? nullptr : dlsym(self, name);
  *function = new Function{name, kernel};
  return kernel == nullptr ? kNotFound : 0;
}

int cuLaunchKernel(
    void* function, unsigned int blocks, unsigned int, unsigned int, unsigned int threads, unsigned int, unsigned int,
    unsigned int shared_bytes, void* stream, void** parameters, void**) {
  const auto& [name, kernel] = *static_cast<Function*>(function);
  cudaLaunchConfig_t config;
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  const auto is = [&](const char* part) { return name.find(part) != std::string::npos; };
  if (is("score_step_kernel")) {
    run<KlTask, PerturbTask, cuda::Pieces, int64_t>(config, kernel, parameters);
  } else if (is("perturb_kernel")) {
    run<PerturbTask, cuda::Pieces>(config, kernel, parameters);
  } else if (is("kl_divergence_kernel")) {
    run<KlTask, int64_t>(config, kernel, parameters);
  } else if (is("patch_origins_kernel")) {
    run<OriginsTask>(config, kernel, parameters);
  } else {
    run<UniformTask>(config, kernel, parameters);
  }
  return 0;
}

int cuGetErrorName(int error, const char** name) {
  *name = error == kNotFound ? "CUDA_ERROR_NOT_FOUND" : "CUDA_ERROR_INVALID_IMAGE";
  return 0;
}

}  // extern "C"
