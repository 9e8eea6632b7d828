// PyTorch's threads, by the stable ABI.
#pragma once

#include <torch/csrc/stable/ops.h>

namespace advrbd::cpu {

using torch::stable::parallel_for;

inline int64_t thread_count() {
  return torch::stable::get_num_threads();
}

}  // namespace advrbd::cpu
