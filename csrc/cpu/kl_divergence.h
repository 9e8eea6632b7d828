#pragma once

#include "jobs.h"
#include "kernels/kernels.h"

namespace advrbd::cpu {

class KlJob {
 public:
  explicit KlJob(const KlTask& task) : task_(task) {}

  int64_t work() const;
  void run(Shares shares) const;

 private:
  const KlTask& task_;
};

}  // namespace advrbd::cpu
