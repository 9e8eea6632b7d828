// 16-bit floats on the CPU by integer arithmetic: exact, round to nearest even, and vectorised on any instruction set.
#pragma once

#include "../../arithmetic.h"

namespace advrbd::cpu {

ADVRBD_INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

ADVRBD_INLINE float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

struct Float32 {
  float value;
  ADVRBD_INLINE float load() const {
    return value;
  }
  ADVRBD_INLINE static Float32 store(float value) {
    return {value};
  }
};

struct BFloat16 {
  uint16_t bits;
  ADVRBD_INLINE float load() const {
    return float_of(uint32_t{bits} << 16);
  }
  ADVRBD_INLINE static BFloat16 store(float value) {
    const uint32_t wide = bits_of(value);
    const uint32_t rounded = (wide + 0x7FFFu + ((wide >> 16) & 1u)) >> 16;
    return {static_cast<uint16_t>(value != value ? 0x7FC0u : rounded)};
  }
};

struct Float16 {
  uint16_t bits;
  ADVRBD_INLINE float load() const {
    const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
    const uint32_t magnitude = bits & 0x7FFFu;
    // Exponent and mantissa moved into place; the multiplication repairs the exponent's bias, subnormals included.
    const float finite = float_of(magnitude << 13) * float_of(uint32_t{254 - 15} << 23);
    const uint32_t infinite_or_nan = (magnitude << 13) | 0x7F800000u;
    return float_of((magnitude >= 0x7C00u ? infinite_or_nan : bits_of(finite)) | sign);
  }
  ADVRBD_INLINE static Float16 store(float value) {
    const uint32_t wide = bits_of(value);
    const uint32_t sign = (wide >> 16) & 0x8000u;
    const uint32_t magnitude = wide & 0x7FFFFFFFu;
    // Normal numbers: shift the bias, round half to even on the 13 bits that go; a carry may reach infinity.
    const uint32_t normal = (magnitude - (uint32_t{127 - 15} << 23) + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
    // Subnormal numbers: adding 0.5 lines the bits up and lets the addition round.
    const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
    half = magnitude >= 0x477FF000u ? 0x7C00u : half;
    half = magnitude > 0x7F800000u ? 0x7E00u : half;
    return {static_cast<uint16_t>(half | sign)};
  }
};

}  // namespace advrbd::cpu
