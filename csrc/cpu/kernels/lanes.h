// Vectors of floats as wide as the registers of the instruction set that the including file names.
#pragma once

#if ADVRBD_LANES > 4
#include <immintrin.h>
#endif

#include <type_traits>
#include <utility>

#include "../../arithmetic.h"
#include "scalars.h"

namespace advrbd {
namespace cpu::ADVRBD_CAPABILITY {

constexpr int kLanes = ADVRBD_LANES;

template <int kCount>
struct Floats {
  typedef float type __attribute__((vector_size(4 * kCount)));
};

using Lanes = Floats<kLanes>::type;
typedef int32_t SignedLaneBits __attribute__((vector_size(4 * kLanes)));
typedef uint32_t LaneBits __attribute__((vector_size(4 * kLanes)));

template <int kCount = kLanes>
ADVRBD_INLINE typename Floats<kCount>::type load(const float* values) {
  typename Floats<kCount>::type lanes;
  std::memcpy(&lanes, values, sizeof(lanes));
  return lanes;
}

ADVRBD_INLINE Lanes load(const Float32* values) {
  return load(&values->value);
}

// The processor's own instructions for 16-bit floats, where it has some that the compiler does not use by itself.
constexpr int kEight = 8;
using Eight = Floats<kEight>::type;

#if ADVRBD_LANES > 4
template <typename Scalar>
constexpr bool kConvertsEight = std::is_same_v<Scalar, Float16>;

ADVRBD_INLINE Eight load_eight(const Float16* values) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
}

ADVRBD_INLINE void store_eight(Float16* values, Eight eight) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(values), _mm256_cvtps_ph(eight, _MM_FROUND_TO_NEAREST_INT));
}
#else
template <typename Scalar>
constexpr bool kConvertsEight = false;
#endif

template <typename Scalar>
ADVRBD_INLINE Lanes load(const Scalar* values) {
  float wide[kLanes];
  if constexpr (kConvertsEight<Scalar>) {
    for (int lane = 0; lane < kLanes; lane += kEight) {
      const Eight eight = load_eight(values + lane);
      std::memcpy(wide + lane, &eight, sizeof(eight));
    }
  } else {
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) {
      wide[lane] = values[lane].load();
    }
  }
  return load(wide);
}

ADVRBD_INLINE void store(float* values, Lanes lanes) {
  std::memcpy(values, &lanes, sizeof(lanes));
}

// b where one of the two is a NaN.
struct Larger {
  template <typename Real>
  ADVRBD_INLINE static Real join(Real a, Real b) {
    return a > b ? a : b;
  }
#if ADVRBD_LANES == 16
  // Compilers make two instructions of the comparison above.
  ADVRBD_INLINE static Lanes join(Lanes a, Lanes b) {
    return _mm512_max_ps(a, b);
  }
#elif ADVRBD_LANES == 8
  ADVRBD_INLINE static Lanes join(Lanes a, Lanes b) {
    return _mm256_max_ps(a, b);
  }
#endif
};

ADVRBD_INLINE bool any_nan(Lanes lanes) {
  bool found = false;
  for (int lane = 0; lane < kLanes; ++lane) {
    found |= lanes[lane] != lanes[lane];
  }
  return found;
}

ADVRBD_INLINE bool any(SignedLaneBits lanes) {
  int32_t found = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    found |= lanes[lane];
  }
  return found != 0;
}

// Lane i of the result is lane kFrom[i] of a followed by b.
template <int... kFrom>
ADVRBD_INLINE Lanes pick(Lanes a, Lanes b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, kFrom...);
#else
  return __builtin_shuffle(a, b, LaneBits{kFrom...});
#endif
}

// Exchanges blocks of kStep x kStep across the diagonal of the larger blocks that hold them.
template <int kStep, int... kLane>
ADVRBD_INLINE void exchange(Lanes* tile, std::integer_sequence<int, kLane...>) {
  for (int i = 0; i < kLanes; ++i) {
    if ((i & kStep) == 0) {
      const Lanes upper = tile[i], lower = tile[i + kStep];
      tile[i] = pick<((kLane & kStep) == 0 ? kLane : kLane - kStep + kLanes)...>(upper, lower);
      tile[i + kStep] = pick<((kLane & kStep) == 0 ? kLane + kStep : kLane + kLanes)...>(upper, lower);
    }
  }
}

// A tile of kLanes x kLanes.
template <int kStep = 1>
ADVRBD_INLINE void transpose(Lanes* tile) {
  exchange<kStep>(tile, std::make_integer_sequence<int, kLanes>{});
  if constexpr (kStep < kLanes / 2) {
    transpose<kStep * 2>(tile);
  }
}

}  // namespace cpu::ADVRBD_CAPABILITY

template <>
struct RealTraits<cpu::ADVRBD_CAPABILITY::Lanes> {
  using Bits = cpu::ADVRBD_CAPABILITY::LaneBits;
  using SignedBits = cpu::ADVRBD_CAPABILITY::SignedLaneBits;

  ADVRBD_INLINE static cpu::ADVRBD_CAPABILITY::Lanes at_least(cpu::ADVRBD_CAPABILITY::Lanes x, float bound) {
    return cpu::ADVRBD_CAPABILITY::Larger::join(cpu::ADVRBD_CAPABILITY::Lanes{} + bound, x);
  }

  ADVRBD_INLINE static cpu::ADVRBD_CAPABILITY::Lanes of_integer(SignedBits integer) {
    return __builtin_convertvector(integer, cpu::ADVRBD_CAPABILITY::Lanes);
  }
};

}  // namespace advrbd
