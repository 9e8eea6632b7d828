// The schemas, and the Python module whose import registers everything.
#include <pybind11/pybind11.h>
#include <torch/library.h>
#include <torch/version.h>

#include "cpu/kernels.h"

TORCH_LIBRARY(advrbd, library) {
  constexpr const char* kSchemas[] = {
#include "schemas.inc"
  };
  for (const char* schema : kSchemas) {
    library.def(schema);
  }
}

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled kernels of advrbd_plugin; importing it registers torch.ops.advrbd";
  module.attr("torch_version") = TORCH_VERSION;
#if defined(ADVRBD_CUDA_ARCHITECTURES)
  module.attr("cuda_architectures") = ADVRBD_CUDA_ARCHITECTURES;
#else
  module.attr("cuda_architectures") = pybind11::none();
#endif
  module.attr("cpu_instruction_set") = advrbd::cpu::kernels().instruction_set;
}
