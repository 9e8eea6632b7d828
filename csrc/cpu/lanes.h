// Vectors of floats as wide as the registers of the instruction set that the including file names.
#pragma once

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

// A NaN is passed over.
struct Larger {
  template <typename Real>
  ADVRBD_INLINE static Real join(Real a, Real b) {
    return a > b ? a : b;
  }
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
struct BitsOf<cpu::ADVRBD_CAPABILITY::Lanes> {
  using type = cpu::ADVRBD_CAPABILITY::LaneBits;
};

}  // namespace advrbd
