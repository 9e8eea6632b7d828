#include "kl_divergence.h"
#include "launch.h"
#include "perturb.h"

namespace advrbd::cpu {

void launch(const KlTask& kl, const PerturbTask& perturb) {
  run_in_threads(KlJob(kl), PerturbJob(perturb));
}

}  // namespace advrbd::cpu
