#pragma once

using __half = _Float16;  // the compiler's own conversions

inline float __half2float(__half value) {
  return static_cast<float>(value);
}

inline __half __float2half_rn(float value) {
  return static_cast<__half>(value);
}
