// The schemas, and the Python module of the CPU kernels, whose import registers both.
#include <pybind11/pybind11.h>
#include <torch/library.h>
#include <torch/version.h>

#include "cpu/kernels/kernels.h"

TORCH_LIBRARY(advrbd, library) {
  constexpr const char* kSchemas[] = {
#include "schemas.inc"
  };
  for (const char* schema : kSchemas) {
    library.def(schema);
  }
}

PYBIND11_MODULE(_C, module) {
  module.doc() = "CPU kernels of advrbd_plugin; importing it defines torch.ops.advrbd";
  module.attr("torch_version") = TORCH_VERSION;
  module.attr("cpu_instruction_set") = advrbd::cpu::kernels().instruction_set;
}
