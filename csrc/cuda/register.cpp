#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "../ops.h"
#include "launch.h"

namespace advrbd {
namespace {

struct Cuda {
  template <typename... Task>
  static void launch(at::Device device, const Task&... tasks) {
    const c10::cuda::CUDAGuard guard(device);
    cuda::launch(tasks..., c10::cuda::getCurrentCUDAStream(device.index()));
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(advrbd, CUDA, library) {
  Ops<Cuda>::register_in(library);
}

}  // namespace advrbd
