#pragma once

#include <vector>

#include "jobs.h"
#include "kernels/kernels.h"

namespace advrbd::cpu {

class PerturbJob {
 public:
  explicit PerturbJob(const PerturbTask& task);

  int64_t work() const;
  void run(Shares shares) const;

 private:
  // The bounds of each plane's patch row, so that the inner loop is the same for both memory formats.
  void fill_bounds();

  const PerturbTask& task_;
  std::vector<float> bounds_;
  std::vector<RowBounds> rows_;
};

}  // namespace advrbd::cpu
