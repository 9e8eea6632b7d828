// advrbd_plugin._C: what this build is made of, and the arithmetic that the kernels share, called directly. The ops do
// not need it (libadvrbd_cpu, libadvrbd_cuda), so a wheel leaves it out.
#include <pybind11/pybind11.h>
#include <torch/version.h>

#include "tasks.h"

namespace py = pybind11;

namespace {

using namespace advrbd;

py::tuple philox(uint64_t seed, int64_t sample_id, uint32_t index) {
  const Words words = words_of(seed, sample_id, index);
  return py::make_tuple(words.first, words.second, words.third, words.fourth);
}

py::tuple origin(uint64_t seed, int64_t sample_id, uint32_t mask, int32_t rows, int32_t columns) {
  if (rows < 1 || columns < 1) {
    throw py::value_error("rows and columns must be at least 1");
  }
  const Origin found = patch_origin(seed, sample_id, mask, {rows, columns});
  return py::make_tuple(found.row, found.column);
}

float step(float value, float grad, float epsilon, float low, float high) {
  return sign_step(value, grad, epsilon, low, high);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Build information of advrbd_plugin, and the arithmetic of its kernels for single numbers";
  module.attr("torch_version") = TORCH_VERSION;
  module.attr("compiler") = __VERSION__;
  module.def(
      "philox", &philox, py::arg("seed"), py::arg("sample_id"), py::arg("index") = 0,
      "Four words of 32 bits: Philox4x32-10 of a seed, a sample id and an index");
  module.def(
      "patch_origin", &origin, py::arg("seed"), py::arg("sample_id"), py::arg("mask"), py::arg("rows"),
      py::arg("columns"), "(row, column) of a mask's patch among rows x columns positions");
  module.def(
      "sign_step", &step, py::arg("value"), py::arg("grad"), py::arg("epsilon"), py::arg("low") = 0.0f,
      py::arg("high") = 1.0f, "One value after the sign step, in float32");
}
