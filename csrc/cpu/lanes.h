// Vectors of floats as wide as the registers of the instruction set that the including file names.
#pragma once

#if ADVRBD_LANES > 4
#include <immintrin.h>
#endif

#include "../arithmetic.h"
#include "scalars.h"

namespace advrbd {
namespace cpu::ADVRBD_CAPABILITY {

constexpr int kLanes = ADVRBD_LANES;

template <int kCount>
struct Floats {
  typedef float type __attribute__((vector_size(4 * kCount)));
};

using Lanes = Floats<kLanes>::type;
typedef uint32_t LaneBits __attribute__((vector_size(4 * kLanes)));

ADVRBD_INLINE Lanes load(const float* values) {
  Lanes lanes;
  std::memcpy(&lanes, values, sizeof(lanes));
  return lanes;
}

ADVRBD_INLINE Lanes load(const Float32* values) {
  return load(&values->value);
}

template <typename Scalar>
ADVRBD_INLINE Lanes load(const Scalar* values) {
  float converted[kLanes];
#pragma omp simd
  for (int lane = 0; lane < kLanes; ++lane) {
    converted[lane] = values[lane].load();
  }
  return load(converted);
}

ADVRBD_INLINE void store(float* values, Lanes lanes) {
  std::memcpy(values, &lanes, sizeof(lanes));
}

struct Add {
  template <typename Real>
  ADVRBD_INLINE static Real join(Real a, Real b) {
    return a + b;
  }
};

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

// Joins the lanes to one value, half and half.
template <typename Join, int kCount = kLanes>
ADVRBD_INLINE float fold(typename Floats<kCount>::type lanes) {
  if constexpr (kCount == 2) {
    return Join::join(float{lanes[0]}, float{lanes[1]});
  } else {
    typename Floats<kCount / 2>::type halves[2];
    std::memcpy(halves, &lanes, sizeof(halves));
    return fold<Join, kCount / 2>(Join::join(halves[0], halves[1]));
  }
}

}  // namespace cpu::ADVRBD_CAPABILITY

template <>
struct RealTraits<cpu::ADVRBD_CAPABILITY::Lanes> {
  using Bits = cpu::ADVRBD_CAPABILITY::LaneBits;

  ADVRBD_INLINE static cpu::ADVRBD_CAPABILITY::Lanes at_least(cpu::ADVRBD_CAPABILITY::Lanes x, float bound) {
    return cpu::ADVRBD_CAPABILITY::Larger::join(cpu::ADVRBD_CAPABILITY::Lanes{} + bound, x);
  }
};

}  // namespace advrbd
