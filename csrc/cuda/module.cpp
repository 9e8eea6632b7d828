// The Python module of the CUDA kernels, whose import registers them (register.cpp).
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_C_cuda, module) {
  module.doc() = "CUDA kernels of advrbd_plugin; importing it gives torch.ops.advrbd its CUDA kernels";
  module.attr("cuda_architectures") = ADVRBD_CUDA_ARCHITECTURES;
}
