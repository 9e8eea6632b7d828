// The KL divergence of a row of logits: the lanes of a warp share it.
#pragma once

#include "kernel.cuh"

namespace advrbd::cuda {

constexpr int kRowsPerBlock = kThreads / kWarp;  // a warp takes a row of logits, for all masks

template <typename Join>
__device__ __forceinline__ float warp_join(float value, Join join) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value = join(value, __shfl_xor_sync(0xFFFFFFFFu, value, offset));
  }
  return value;
}

__device__ __forceinline__ float warp_sum(float value) {
  return warp_join(value, [](float a, float b) { return a + b; });
}

// A NaN is passed over here and found by the sums. fmaxf would do the same.
template <typename Scalar>
__device__ __forceinline__ float warp_largest(const Scalar* row, int64_t classes, int lane) {
  float largest = -INFINITY;
  for (int64_t c = lane; c < classes; c += kWarp) {
    largest = fmaxf(largest, to_float(row[c]));
  }
  return warp_join(largest, [](float a, float b) { return fmaxf(a, b); });
}

__device__ __forceinline__ SoftmaxSum<float> warp_sum(SoftmaxSum<float> sum) {
  sum.tail = warp_sum(sum.tail);
  sum.largest = warp_sum(sum.largest);
  return sum;
}

// All readings of a row after the first find it in the cache.
template <typename Scalar>
__device__ void divergence_of_row(const KlTask& task, int64_t row, int lane) {
  const int64_t classes = task.classes;
  const Scalar* logits = static_cast<const Scalar*>(task.logits) + row * classes;
  const float x_largest = warp_largest(logits, classes, lane);
  SoftmaxSum<float> p;
  for (int64_t c = lane; c < classes; c += kWarp) {
    const float x = to_float(logits[c]) - x_largest;
    p.add(x, exp_of_nonpositive(x));
  }
  p = warp_sum(p);
  for (int64_t mask = 0; mask < task.num_masks; ++mask) {
    const int64_t place = mask * task.rows + row;
    const Scalar* perturbed = static_cast<const Scalar*>(task.perturbed_logits) + place * classes;
    const float y_largest = warp_largest(perturbed, classes, lane);
    SoftmaxSum<float> q;
    float cross = 0.0f;
    for (int64_t c = lane; c < classes; c += kWarp) {
      const float x = to_float(logits[c]) - x_largest;
      const float y = to_float(perturbed[c]) - y_largest;
      q.add(y, exp_of_nonpositive(y));
      cross += cross_term(x, exp_of_nonpositive(x), y);
    }
    q = warp_sum(q);
    cross = warp_sum(cross);
    const auto quick = QuickKl<float>::of(p, q, cross);
    float divergence = quick.divergence;
    if (divergence < quick.bound) {  // all lanes of the warp alike
      const auto terms = KlTerms<float>::of(x_largest, p, y_largest, q);
      float sum = 0.0f;
      for (int64_t c = lane; c < classes; c += kWarp) {
        const float x = to_float(logits[c]), y = to_float(perturbed[c]), shifted = x - x_largest;
        sum += terms.term(x, y, shifted, exp_of_nonpositive(shifted), exp_of_nonpositive(y - y_largest));
      }
      divergence = terms.divergence(warp_sum(sum));
    }
    if (lane == 0) {
      task.divergence[place] = divergence;
    }
  }
}

// The rows of one block.
template <typename Scalar>
__device__ __forceinline__ void divergence_of_block(const KlTask& task, int64_t block) {
  const int64_t row = block * kRowsPerBlock + threadIdx.x / kWarp;
  if (row < task.rows) {
    divergence_of_row<Scalar>(task, row, threadIdx.x % kWarp);
  }
}

template <typename Scalar>
__global__ void __launch_bounds__(kThreads) kl_divergence_kernel(const __grid_constant__ KlTask task, int64_t blocks) {
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    divergence_of_block<Scalar>(task, block);
  }
}

}  // namespace advrbd::cuda
