// The schemas, and the ops of CPU tensors: torch.ops.load_library registers both.
#include "../ops.h"
#include "kernels/kernels.h"
#include "launch.h"

namespace advrbd {
namespace {

struct Cpu {
  template <typename... Task>
  static void launch(const Tensor&, const Task&... tasks) {
    cpu::launch(tasks...);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY(advrbd, library) {
  constexpr const char* kSchemas[] = {
#include "schemas.inc"
  };
  for (const char* schema : kSchemas) {
    library.def(schema);
  }
}

STABLE_TORCH_LIBRARY_IMPL(advrbd, CPU, library) {
  Ops<Cpu>::register_in(library);
}

}  // namespace advrbd

// For advrbd_plugin/ops/library.py.
extern "C" __attribute__((visibility("default"))) const char* advrbd_cpu_instruction_set() {
  return advrbd::cpu::kernels().instruction_set;
}
