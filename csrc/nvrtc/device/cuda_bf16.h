// The conversions that the kernels need, so that no toolkit's headers have to be there. One instruction each way.
#pragma once

struct __nv_bfloat16 {
  unsigned short bits;
};

__device__ __forceinline__ float __bfloat162float(__nv_bfloat16 value) {
  return __int_as_float(static_cast<int>(value.bits) << 16);
}

__device__ __forceinline__ __nv_bfloat16 __float2bfloat16_rn(float value) {
#if __CUDA_ARCH__ >= 800
  __nv_bfloat16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  const unsigned int wide = static_cast<unsigned int>(__float_as_int(value));
  if (value != value) {
    return {0x7FFF};
  }
  return {static_cast<unsigned short>((wide + 0x7FFF + (wide >> 16 & 1)) >> 16)};
#endif
}
