// Jobs that PyTorch's threads do in shares. Every share holds its part of each job, so that the threads finish together.
#pragma once

#include <algorithm>
#include <cstdint>

#include "threads.h"

namespace advrbd::cpu {

// Shares [first, last) of `count`.
struct Shares {
  int64_t first, last, count;

  int64_t begin_of(int64_t items) const {
    return items * first / count;
  }
  int64_t end_of(int64_t items) const {
    return items * last / count;
  }
};

// A job has a `work()`, in values that are copied, and a `run(Shares)`.
template <typename... Job>
void run_in_threads(const Job&... jobs) {
  constexpr int64_t kWorkPerThread = 32768;  // a second thread pays from here on
  const int64_t work = (jobs.work() + ...);
  const int64_t count = std::clamp<int64_t>(work / kWorkPerThread, 1, thread_count());
  parallel_for(0, count, 1, [&](int64_t first, int64_t last) { (jobs.run(Shares{first, last, count}), ...); });
}

}  // namespace advrbd::cpu
