#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "../ops.h"
#include "launch.h"

namespace advrbd {
namespace {

struct Cuda {
  static void launch(at::Device device, const OriginsTask& task) {
    const c10::cuda::CUDAGuard guard(device);
    cuda::launch(task, c10::cuda::getCurrentCUDAStream(device.index()));
  }
  static void launch(at::Device device, const KlTask& kl, const PerturbTask& perturb) {
    const c10::cuda::CUDAGuard guard(device);
    cuda::launch(kl, perturb, c10::cuda::getCurrentCUDAStream(device.index()));
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(advrbd, CUDA, library) {
  Ops<Cuda>::register_in(library);
}

}  // namespace advrbd
