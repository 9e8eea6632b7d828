// The conversions that the kernels need, so that no toolkit's headers have to be there.
#pragma once

struct __half {
  unsigned short bits;
};

__device__ __forceinline__ float __half2float(__half value) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
}

__device__ __forceinline__ __half __float2half_rn(float value) {
  __half result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
}
