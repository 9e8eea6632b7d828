#include "../ops.h"
#include "launch.h"

namespace advrbd {
namespace {

struct Cpu {
  template <typename... Task>
  static void launch(at::Device, const Task&... tasks) {
    cpu::launch(tasks...);
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(advrbd, CPU, library) {
  Ops<Cpu>::register_in(library);
}

}  // namespace advrbd
