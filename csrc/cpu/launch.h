#pragma once

#include "../tasks.h"

namespace advrbd::cpu {

// Either task may be empty. Divided among PyTorch's threads.
void launch(const KlTask& kl, const PerturbTask& perturb);
void launch(const OriginsTask& task);

}  // namespace advrbd::cpu
