// The arithmetic of the ops, once, for CPU and CUDA: plain inline functions, free of PyTorch headers.
// Python's twin is advrbd_plugin/ops/reference.py.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define ADVRBD_INLINE __host__ __device__ __forceinline__
#else
// always_inline, so that the body is compiled for the instruction set of the caller (see cpu/kernels/kernels.h).
#define ADVRBD_INLINE inline __attribute__((always_inline))
#endif

namespace advrbd {

// Real is float, or on the CPU a vector of floats (cpu/kernels/lanes.h).

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
        static_cast<uint32_t>(product_high >> 32) ^ counter.second ^ key_low, static_cast<uint32_t>(product_high),
        static_cast<uint32_t>(product_low >> 32) ^ counter.fourth ^ key_high, static_cast<uint32_t>(product_low)};
    key_low += 0x9E3779B9;
    key_high += 0xBB67AE85;
  }
  return counter;
}

// The words of a sample. Key: the seed. Counter: the 64 bits of the sample id, then `index`, then 0.
ADVRBD_INLINE Words words_of(uint64_t seed, int64_t sample_id, uint32_t index) {
  const uint64_t id = static_cast<uint64_t>(sample_id);
  return philox4x32_10({static_cast<uint32_t>(id), static_cast<uint32_t>(id >> 32), index, 0}, seed);
}

// One of 0, ..., range - 1 for a word: integers only, so the same everywhere, and each probability is within 2^-32 of
// 1 / range.
ADVRBD_INLINE int32_t scaled(uint32_t word, int32_t range) {
  return static_cast<int32_t>((uint64_t{word} * static_cast<uint32_t>(range)) >> 32);
}

// Patch positions.

struct PatchGrid {
  int32_t rows, columns;  // number of possible positions: image side - patch side + 1
};

struct Origin {
  int32_t row, column;
};

ADVRBD_INLINE Origin patch_origin(uint64_t seed, int64_t sample_id, uint32_t mask, PatchGrid grid) {
  const Words words = words_of(seed, sample_id, mask);
  return {scaled(words.first, grid.rows), scaled(words.second, grid.columns)};
}

// The masked sign step, inside the patch.

struct StepBounds {
  float epsilon, low, high;
};

// The comparisons are written so that a NaN gradient makes no step (as torch.sign) and a NaN pixel stays NaN.
template <typename Real>
ADVRBD_INLINE Real sign_step(Real pixel, Real grad, Real epsilon, Real low, Real high) {
  const Real step = grad > 0.0f ? epsilon : (grad < 0.0f ? -epsilon : Real{});
  const Real moved = pixel + step;
  const Real raised = moved < low ? low : moved;
  return raised > high ? high : raised;
}

// KL divergence of softmaxes.

template <typename Real>
struct RealTraits;

template <>
struct RealTraits<float> {
  using Bits = uint32_t;
  using SignedBits = int32_t;

  // NaN for NaN.
  ADVRBD_INLINE static float at_least(float x, float bound) {
    return x < bound ? bound : x;
  }

  ADVRBD_INLINE static float of_integer(int32_t integer) {
    return static_cast<float>(integer);
  }
};

constexpr float kSmallestExponent = -87.0f;  // below, a class counts as impossible

// exp(x) for x <= 0, to about 4e-7 of its value; exp(-87) = 1.6e-38 for anything below, NaN for NaN. Branch-free, so
// that compilers vectorise it, and the same code on every device. 2^n exp(r) with |r| <= log(2) / 2; the polynomial
// is the one of degree 5 with the least relative error, 1e-7, that is exact for r = 0.
template <typename Real>
ADVRBD_INLINE Real exp_of_nonpositive(Real x) {
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kLn2 = 0.693147180559945309f;
  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits; with the exponent's bias, 127.
  constexpr float kRounder = 12582912.0f + 127.0f;
  const Real bounded = RealTraits<Real>::at_least(x, kSmallestExponent);
  const Real rounded = bounded * kLog2E + kRounder;
  const Real rest = bounded - (rounded - kRounder) * kLn2;
  Real polynomial = 8.2903062309e-3f * rest + 4.1897975985e-2f;
  polynomial = polynomial * rest + 1.6667636585e-1f;
  polynomial = polynomial * rest + 4.9999149188e-1f;
  polynomial = polynomial * rest + 9.9999970701e-1f;
  polynomial = polynomial * rest + 1.0f;
  typename RealTraits<Real>::Bits bits;
  std::memcpy(&bits, &rounded, sizeof(bits));
  bits <<= 23;
  Real scale;
  std::memcpy(&scale, &bits, sizeof(scale));
  return polynomial * scale;
}

// log(1 + s) for s >= 0, also where s is far below 1; NaN for NaN. Polynomial as in Cephes' logf.
template <typename Real>
ADVRBD_INLINE Real log1p_of_nonnegative(Real s) {
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr int32_t kHalfRootBits = 0x3F3504F3;  // sqrt(1/2): the mantissa is taken in [sqrt(1/2), sqrt(2))
  const Real u = 1.0f + s;
  const Real lost = (s - (u - 1.0f)) / u;
  typename RealTraits<Real>::SignedBits bits;
  std::memcpy(&bits, &u, sizeof(bits));
  const auto exponent = (bits - kHalfRootBits) >> 23;
  bits -= exponent * (1 << 23);
  Real mantissa;
  std::memcpy(&mantissa, &bits, sizeof(mantissa));
  const Real f = mantissa - 1.0f;
  const Real power = RealTraits<Real>::of_integer(exponent);
  Real polynomial = 7.0376836292e-2f * f - 1.1514610310e-1f;
  polynomial = polynomial * f + 1.1676998740e-1f;
  polynomial = polynomial * f - 1.2420140846e-1f;
  polynomial = polynomial * f + 1.4249322787e-1f;
  polynomial = polynomial * f - 1.6668057665e-1f;
  polynomial = polynomial * f + 2.0000714765e-1f;
  polynomial = polynomial * f - 2.4999993993e-1f;
  polynomial = polynomial * f + 3.3333331174e-1f;
  const Real square = f * f;
  const Real curved = polynomial * f * square + kLn2Low * power - 0.5f * square;
  return (f + curved) + (kLn2High * power + lost);
}

// Sum over the classes of exp(x), x = logit - largest logit, without the largest ones, which are counted. Confident
// rows have a tail near 0, and 1 + tail would lose it; these are the rows whose divergence matters.
template <typename Real>
struct SoftmaxSum {
  Real tail{}, largest{};

  ADVRBD_INLINE void add(Real x, Real exp_x) {
    tail = x == 0.0f ? tail : tail + exp_x;
    largest = x == 0.0f ? largest + 1.0f : largest;
  }

  ADVRBD_INLINE void add(SoftmaxSum other) {
    tail += other.tail;
    largest += other.largest;
  }
};

// One class's share of the sum of exp(x) (x - y). An impossible class adds nothing, whatever its logits; a NaN is not
// below the bound, so it is added.
template <typename Real>
ADVRBD_INLINE Real cross_term(Real x, Real exp_x, Real y) {
  return x < kSmallestExponent ? Real{} : exp_x * (x - y);
}

template <typename Real>
ADVRBD_INLINE Real log_of(SoftmaxSum<Real> sum) {
  return log1p_of_nonnegative(sum.tail + (sum.largest - 1.0f));
}

// KL = E_p[x - y] - log sum exp(x) + log sum exp(y), by one reading of each row. Rounding must not make it negative; NaN
// stays NaN.
template <typename Real>
struct QuickKl {
  Real divergence;
  Real bound;  // where the divergence is below it, so much cancelled in the sum that KlTerms must take over

  ADVRBD_INLINE static QuickKl of(SoftmaxSum<Real> p, SoftmaxSum<Real> q, Real cross) {
    constexpr float kCancelled = 1.0f / 512;
    const Real mean = cross / (p.largest + p.tail);
    const Real log_p = log_of(p), log_q = log_of(q);
    const Real divergence = mean - log_p + log_q;
    return {divergence < 0.0f ? Real{} : divergence, kCancelled * ((mean < 0.0f ? -mean : mean) + log_p + log_q)};
  }
};

// KL = sum_c p_c (exp(d_c) - 1 - d_c), where d = log q - log p: the sum of q - p, which is 0, is added to the usual -p d.
// So no term is negative, and nothing cancels where p and q are nearly equal; and an error of d, the same in all
// classes, counts only by its square.
template <typename Real>
struct KlTerms {
  SoftmaxSum<Real> p;
  Real offset, shift;  // d = (y - offset - x) - shift; the offset is a whole number: the first difference loses nothing
  Real scale;  // from exp(y - largest y) to q, in the units of exp(x - largest x)

  ADVRBD_INLINE static KlTerms of(Real x_largest, SoftmaxSum<Real> p, Real y_largest, SoftmaxSum<Real> q) {
    constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const Real offset = ((y_largest - x_largest) + kRounder) - kRounder;
    const Real shift = ((y_largest - offset) - x_largest) + (log_of(q) - log_of(p));
    return {p, offset, shift, (p.largest + p.tail) / (q.largest + q.tail)};
  }

  // One class's share, from its logits x and y, shifted = x - largest x, and the exponentials of x and y. Where |d| < 1,
  // by the polynomial of (exp(d) - 1 - d) / d^2 with the least relative error, 9e-8. An impossible class of p leaves q.
  ADVRBD_INLINE Real term(Real x, Real y, Real shifted, Real exp_x, Real exp_y) const {
    const Real d = ((y - offset) - x) - shift;
    const Real q_c = exp_y * scale;
    Real polynomial = 2.4960812567e-5f * d + 2.0325485715e-4f;
    polynomial = polynomial * d + 1.3891335386e-3f;
    polynomial = polynomial * d + 8.3309304619e-3f;
    polynomial = polynomial * d + 4.1666515583e-2f;
    polynomial = polynomial * d + 1.6666696192e-1f;
    polynomial = polynomial * d + 5.0000000991e-1f;
    const Real square = d * d;
    const Real share = square < 1.0f ? exp_x * (square * polynomial) : (q_c - exp_x) - exp_x * d;
    return shifted < kSmallestExponent ? q_c : share;
  }

  ADVRBD_INLINE Real divergence(Real sum_of_terms) const {
    return sum_of_terms / (p.largest + p.tail);
  }
};

}  // namespace advrbd
