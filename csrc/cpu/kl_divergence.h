// The KL divergence of a range of rows, a block of rows at a time. Logits come from memory once: the second reading of a
// row, after its largest logit is known, finds it in the cache. What belongs to the clean rows serves all masks.
#pragma once

#include "../tasks.h"
#include "lanes.h"
#include "scalars.h"

namespace advrbd::cpu::ADVRBD_CAPABILITY {

// A row of logits, read as vectors of float32; the last one is padded with impossible classes.
template <typename Scalar>
class Row {
 public:
  ADVRBD_INLINE Row(const Scalar* logits, int64_t classes) : logits_(logits), whole_(classes - classes % kLanes) {
    store(last_, Lanes{} + kImpossible);
    for (int64_t c = whole_; c < classes; ++c) {
      last_[c - whole_] = logits[c].load();
    }
  }

  ADVRBD_INLINE Lanes at(int64_t c) const {
    return c < whole_ ? load(logits_ + c) : load(last_);
  }

  // A NaN is passed over here and found by the sums.
  ADVRBD_INLINE float largest() const {
    Lanes lanes = load(last_);
    for (int64_t c = 0; c < whole_; c += kLanes) {
      lanes = Larger::join(load(logits_ + c), lanes);
    }
    return fold<Larger>(lanes);
  }

 private:
  // Finite, so that a difference of two is no NaN.
  static constexpr float kImpossible = -1e38f;

  const Scalar* logits_;
  int64_t whole_;
  float last_[kLanes];
};

template <typename Scalar>
struct KlDivergence {
  ADVRBD_INLINE static void run(const KlTask& task, float* scratch, int64_t begin, int64_t end) {
    const int64_t classes = task.classes;
    const int64_t padded = padded_classes(classes);
    float* x = scratch;
    float* exp_x = scratch + kBlock * padded;
    const auto* logits = static_cast<const Scalar*>(task.logits);
    const auto* perturbed_logits = static_cast<const Scalar*>(task.perturbed_logits);
    SoftmaxSum<float> p[kBlock];
    SoftmaxSum<float> q[kBlock];
    float cross[kBlock] = {};
    float divergence[kBlock];
    for (int64_t first = begin; first < end; first += kBlock) {
      const int64_t rows = end - first < kBlock ? end - first : kBlock;
      for (int64_t row = 0; row < rows; ++row) {
        p[row] = clean_sums({logits + (first + row) * classes, classes}, classes, x + row * padded, exp_x + row * padded);
      }
      for (int64_t mask = 0; mask < task.num_masks; ++mask) {
        const int64_t place = mask * task.rows + first;
        for (int64_t row = 0; row < rows; ++row) {
          q[row] = perturbed_sums(
              {perturbed_logits + (place + row) * classes, classes}, classes, x + row * padded, exp_x + row * padded,
              cross[row]);
        }
#pragma omp simd
        for (int64_t row = 0; row < kBlock; ++row) {
          divergence[row] = kl_from_sums(p[row], q[row], cross[row]);
        }
        std::memcpy(task.divergence + place, divergence, rows * sizeof(float));
      }
    }
  }

 private:
  // Fills x = logit - largest and its exponential, which serve all masks.
  ADVRBD_INLINE static SoftmaxSum<float> clean_sums(
      const Row<Scalar>& row, int64_t classes, float* x, float* exp_x) {
    const float largest = row.largest();
    SoftmaxSum<Lanes> sums;
    for (int64_t c = 0; c < classes; c += kLanes) {
      const Lanes shifted = row.at(c) - largest;
      const Lanes exponential = exp_of_nonpositive(shifted);
      sums.add(shifted, exponential);
      store(x + c, shifted);
      store(exp_x + c, exponential);
    }
    return total(sums);
  }

  // Rows of finite logits take the quick sum: an impossible class has exp(x) = 1e-38, which is as good as 0. In
  // other rows it is not finite, and cross_term decides.
  ADVRBD_INLINE static SoftmaxSum<float> perturbed_sums(
      const Row<Scalar>& row, int64_t classes, const float* x, const float* exp_x, float& cross_sum) {
    const float largest = row.largest();
    SoftmaxSum<Lanes> sums;
    Lanes cross{};
    for (int64_t c = 0; c < classes; c += kLanes) {
      const Lanes y = row.at(c) - largest;
      sums.add(y, exp_of_nonpositive(y));
      cross += load(exp_x + c) * (load(x + c) - y);
    }
    cross_sum = fold<Add>(cross);
    if (__builtin_expect(!__builtin_isfinite(cross_sum), 0)) {
      cross_sum = careful_cross(row, classes, largest, x, exp_x);
    }
    return total(sums);
  }

  ADVRBD_INLINE static float careful_cross(
      const Row<Scalar>& row, int64_t classes, float largest, const float* x, const float* exp_x) {
    Lanes cross{};
    for (int64_t c = 0; c < classes; c += kLanes) {
      cross += cross_term(load(x + c), load(exp_x + c), row.at(c) - largest);
    }
    return fold<Add>(cross);
  }

  ADVRBD_INLINE static SoftmaxSum<float> total(const SoftmaxSum<Lanes>& sums) {
    return {fold<Add>(sums.tail), fold<Add>(sums.largest)};
  }
};

}  // namespace advrbd::cpu::ADVRBD_CAPABILITY
