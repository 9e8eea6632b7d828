#include "../ops.h"
#include "launch.h"

namespace advrbd {
namespace {

struct Cpu {
  static void launch(at::Device, const OriginsTask& task) {
    cpu::launch(task);
  }
  static void launch(at::Device, const KlTask& kl, const PerturbTask& perturb) {
    cpu::launch(kl, perturb);
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(advrbd, CPU, library) {
  Ops<Cpu>::register_in(library);
}

}  // namespace advrbd
