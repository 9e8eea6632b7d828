#include "kl_divergence.h"

#include <new>

#include "launch.h"

namespace advrbd::cpu {
namespace {

constexpr int64_t kCacheLine = 64;

// Uninitialised. A vector that lies across two cache lines takes twice as long to load.
class AlignedFloats {
 public:
  explicit AlignedFloats(int64_t count)
      : values_(static_cast<float*>(::operator new(count * sizeof(float), std::align_val_t{kCacheLine}))) {}
  ~AlignedFloats() {
    ::operator delete(values_, std::align_val_t{kCacheLine});
  }
  AlignedFloats(const AlignedFloats&) = delete;
  AlignedFloats& operator=(const AlignedFloats&) = delete;

  float* get() const {
    return values_;
  }

 private:
  float* values_;
};

}  // namespace

int64_t KlJob::work() const {
  constexpr int64_t kWorkPerLogit = 4;
  return kWorkPerLogit * task_.rows * (1 + task_.num_masks) * task_.classes;
}

void KlJob::run(Shares shares) const {
  const int64_t begin = shares.begin_of(task_.rows), end = shares.end_of(task_.rows);
  if (begin < end) {
    const AlignedFloats scratch(kl_scratch_size(task_.classes));
    kernels().kl_divergence(task_, scratch.get(), begin, end);
  }
}

void launch(const KlTask& task) {
  run_in_threads(KlJob(task));
}

}  // namespace advrbd::cpu
