// The KL divergence of a range of rows, 16 classes at a time. Logits are read from memory once: a row is copied into a
// buffer, where the largest is found and the sums are taken; what belongs to the unperturbed row serves all masks.
#pragma once

#include <limits>

#include "../tasks.h"
#include "scalars.h"

namespace advrbd::cpu {

constexpr int64_t kLanes = 16;

inline int64_t padded_classes(int64_t classes) {
  return (classes + kLanes - 1) / kLanes * kLanes;
}

template <typename Scalar>
struct KlDivergence {
  // buffer: 3 * padded_classes(classes) floats.
  ADVRBD_INLINE static void run(const KlTask* task, float* buffer, int64_t begin, int64_t end) {
    const int64_t classes = task->classes;
    const int64_t padded = (classes + kLanes - 1) / kLanes * kLanes;
    float* x = buffer;
    float* exp_x = buffer + padded;
    float* y = buffer + 2 * padded;
    const auto* logits = static_cast<const Scalar*>(task->logits);
    const auto* perturbed_logits = static_cast<const Scalar*>(task->perturbed_logits);
    for (int64_t row = begin; row < end; ++row) {
      const float x_largest = copy_row(logits + row * classes, classes, padded, x);
      const SoftmaxSum p = exponentials(x, exp_x, x_largest, padded);
      for (int64_t mask = 0; mask < task->num_masks; ++mask) {
        const int64_t place = mask * task->rows + row;
        const float y_largest = copy_row(perturbed_logits + place * classes, classes, padded, y);
        task->divergence[place] = divergence(x, exp_x, p, y, y_largest, padded);
      }
    }
  }

 private:
  // Copies a row, padded with the logits of impossible classes, and returns the largest logit. A NaN is passed over
  // here and found by the sums.
  ADVRBD_INLINE static float copy_row(
      const Scalar* __restrict logits, int64_t classes, int64_t padded, float* __restrict row) {
    constexpr float kImpossible = -std::numeric_limits<float>::infinity();
#pragma omp simd
    for (int64_t c = 0; c < classes; ++c) {
      row[c] = logits[c].load();
    }
    for (int64_t c = classes; c < padded; ++c) {
      row[c] = kImpossible;
    }
    float largest = kImpossible;
#pragma omp simd reduction(max : largest)
    for (int64_t c = 0; c < padded; ++c) {
      largest = row[c] > largest ? row[c] : largest;
    }
    return largest;
  }

  // Turns logits into x = logit - largest and its exponential.
  ADVRBD_INLINE static SoftmaxSum exponentials(
      float* __restrict x, float* __restrict exp_x, float row_largest, int64_t padded) {
    float tail = 0.0f, largest = 0.0f;
#pragma omp simd reduction(+ : tail, largest)
    for (int64_t c = 0; c < padded; ++c) {
      x[c] -= row_largest;
      exp_x[c] = exp_of_nonpositive(x[c]);
      tail += tail_term(x[c], exp_x[c]);
      largest += largest_term(x[c]);
    }
    return {tail, largest};
  }

  ADVRBD_INLINE static float divergence(
      const float* __restrict x, const float* __restrict exp_x, SoftmaxSum p, const float* __restrict logits,
      float row_largest, int64_t padded) {
    float tail = 0.0f, largest = 0.0f, cross = 0.0f;
#pragma omp simd reduction(+ : tail, largest, cross)
    for (int64_t c = 0; c < padded; ++c) {
      const float y = logits[c] - row_largest;
      tail += tail_term(y, exp_of_nonpositive(y));
      largest += largest_term(y);
      cross += cross_term(x[c], exp_x[c], y);
    }
    return kl_from_sums(p, {tail, largest}, cross);
  }
};

}  // namespace advrbd::cpu
