// The ops of CUDA tensors, which torch.ops.load_library registers.
#include "../ops.h"
#include "launch.h"

namespace advrbd {
namespace {

struct Cuda {
  template <typename... Task>
  static void launch(const Tensor& tensor, const Task&... tasks) {
    const int32_t device = tensor.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
    cuda::launch(tasks..., static_cast<cudaStream_t>(stream));
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(advrbd, CUDA, library) {
  Ops<Cuda>::register_in(library);
}

}  // namespace advrbd

// For advrbd_plugin/ops/library.py.
extern "C" __attribute__((visibility("default"))) const char* advrbd_cuda_architectures() {
  return ADVRBD_CUDA_ARCHITECTURES;
}
