// The arithmetic of the ops, once, for CPU and CUDA: plain inline functions, free of PyTorch headers.
// Python's twin is advrbd_plugin/ops/reference.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define ADVRBD_INLINE __host__ __device__ __forceinline__
#else
// always_inline, so that the body is compiled for the instruction set of the caller (see cpu/dispatch.h).
#define ADVRBD_INLINE inline __attribute__((always_inline))
#endif

namespace advrbd {

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

struct Words {
  uint32_t first, second, third, fourth;
};

ADVRBD_INLINE Words philox4x32_10(Words counter, uint64_t key) {
  uint32_t key_low = static_cast<uint32_t>(key);
  uint32_t key_high = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product_low = uint64_t{0xD2511F53} * counter.first;
    const uint64_t product_high = uint64_t{0xCD9E8D57} * counter.third;
    counter = {
        static_cast<uint32_t>(product_high >> 32) ^ counter.second ^ key_low,
        static_cast<uint32_t>(product_high),
        static_cast<uint32_t>(product_low >> 32) ^ counter.fourth ^ key_high,
        static_cast<uint32_t>(product_low)};
    key_low += 0x9E3779B9;
    key_high += 0xBB67AE85;
  }
  return counter;
}

// Patch positions.

struct PatchGrid {
  int32_t rows, columns;  // number of possible positions: image side - patch side + 1
};

struct Origin {
  int32_t row, column;
};

// Key: the seed. Counter: the 64 bits of the sample id, the mask, 0. A word w becomes one of R positions by
// (w * R) >> 32: integers only, so the same everywhere, and each probability is within 2^-32 of 1/R.
ADVRBD_INLINE Origin patch_origin(uint64_t seed, int64_t sample_id, uint32_t mask, PatchGrid grid) {
  const uint64_t id = static_cast<uint64_t>(sample_id);
  const Words words = philox4x32_10({static_cast<uint32_t>(id), static_cast<uint32_t>(id >> 32), mask, 0}, seed);
  return {
      static_cast<int32_t>((uint64_t{words.first} * static_cast<uint32_t>(grid.rows)) >> 32),
      static_cast<int32_t>((uint64_t{words.second} * static_cast<uint32_t>(grid.columns)) >> 32)};
}

// The masked sign step, inside the patch.

struct StepBounds {
  float epsilon, low, high;
};

// The comparisons are written so that a NaN gradient makes no step (as torch.sign) and a NaN pixel stays NaN.
ADVRBD_INLINE float sign_step(float pixel, float grad, float epsilon, float low, float high) {
  const float step = grad > 0.0f ? epsilon : (grad < 0.0f ? -epsilon : 0.0f);
  const float moved = pixel + step;
  const float raised = moved < low ? low : moved;
  return raised > high ? high : raised;
}

// KL divergence of softmaxes.

// exp(x) for x <= 0 within 2 units in the last place; 0 below -87, NaN for NaN. Branch-free, so that compilers
// vectorise it, and the same code on every device. Range reduction and polynomial as in Cephes' expf.
ADVRBD_INLINE float exp_of_nonpositive(float x) {
  constexpr float kSmallest = -87.0f;
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
  constexpr uint32_t kRounderBits = 0x4B400000u;
  const float bounded = x < kSmallest ? kSmallest : x;
  const float rounded = bounded * kLog2E + kRounder;
  const float power = rounded - kRounder;
  const float rest = (bounded - power * kLn2High) - power * kLn2Low;
  float polynomial = 1.9875691500e-4f;
  polynomial = polynomial * rest + 1.3981999507e-3f;
  polynomial = polynomial * rest + 8.3334519073e-3f;
  polynomial = polynomial * rest + 4.1665795894e-2f;
  polynomial = polynomial * rest + 1.6666665459e-1f;
  polynomial = polynomial * rest + 5.0000001201e-1f;
  polynomial = polynomial * rest * rest + rest + 1.0f;
  uint32_t bits;
  std::memcpy(&bits, &rounded, sizeof(bits));
  bits = (bits - kRounderBits + 127u) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof(scale));
  return x < kSmallest ? 0.0f : polynomial * scale;
}

// Sum over the classes of exp(x), x = logit - largest logit, without the largest ones, which are counted. Confident
// rows have a tail near 0, and 1 + tail would lose it; these are the rows whose divergence matters.
struct SoftmaxSum {
  float tail, largest;
};

ADVRBD_INLINE float tail_term(float x, float exp_x) {
  return x == 0.0f ? 0.0f : exp_x;
}

ADVRBD_INLINE float largest_term(float x) {
  return x == 0.0f ? 1.0f : 0.0f;
}

// One class's share of sum_c exp(x_c) (x_c - y_c). A class of probability 0 adds nothing, whatever its logits;
// a NaN is not 0, so it is added.
ADVRBD_INLINE float cross_term(float x, float exp_x, float y) {
  return exp_x == 0.0f ? 0.0f : exp_x * (x - y);
}

// KL = E_p[x - y] - log sum exp(x) + log sum exp(y). Rounding must not make it negative; NaN stays NaN.
ADVRBD_INLINE float kl_from_sums(const SoftmaxSum& p, const SoftmaxSum& q, float cross) {
  const float divergence = cross / (p.largest + p.tail) - log1pf(p.tail + (p.largest - 1.0f)) +
      log1pf(q.tail + (q.largest - 1.0f));
  return divergence < 0.0f ? 0.0f : divergence;
}

}  // namespace advrbd
