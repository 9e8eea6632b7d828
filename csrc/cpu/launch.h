// One launch for each op on the CPU, divided among PyTorch's threads.
#pragma once

#include "../tasks.h"

namespace advrbd::cpu {

void launch(const PerturbTask& task);
void launch(const KlTask& task);
void launch(const KlTask& kl, const PerturbTask& perturb);  // score_step
void launch(const OriginsTask& task);
void launch(const UniformTask& task);

}  // namespace advrbd::cpu
