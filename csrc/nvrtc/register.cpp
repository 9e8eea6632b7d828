// The ops of CUDA tensors by NVRTC, which torch.ops.load_library registers.
#include "../cuda/launch.h"
#include "../ops.h"
#include "program.h"

namespace advrbd {
namespace {

struct Nvrtc {
  template <typename... Task>
  static void launch(const Tensor& tensor, const Task&... tasks) {
    const int32_t device = tensor.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    nvrtc::use_device(device);
    cuda::launch(tasks..., stream_of(device));
  }

 private:
  using GetStream = AOTITorchError (*)(int32_t device, void** stream);

  // PyTorch's library for CUDA is asked at run time, so that this library can be built without it.
  static cudaStream_t stream_of(int32_t device) {
    static const GetStream get = find();
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(get(device, &stream));
    return stream;
  }

  static GetStream find() {
    void* const library = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD);
    void* const found = library == nullptr ? nullptr : dlsym(library, "aoti_torch_get_current_cuda_stream");
    if (found == nullptr) {
      throw std::runtime_error("PyTorch does not tell CUDA's current stream");
    }
    return reinterpret_cast<GetStream>(found);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(advrbd, CUDA, library) {
  Ops<Nvrtc>::register_in(library);
}

}  // namespace advrbd
