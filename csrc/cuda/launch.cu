// One kernel does both halves of score_step: its first blocks take rows of logits, the others pieces of images.
// Only c10's launch check is included from PyTorch, so that this compiles in seconds.
#include "launch.h"

#include <c10/cuda/CUDAException.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <limits>

namespace advrbd::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kRowsPerBlock = kThreads / kWarp;  // a warp takes a row of logits, for all masks
constexpr int kVectorsPerThread = 4;
constexpr int kVectorBytes = 16;
constexpr int64_t kMaxBlocks = int64_t{1} << 30;

// A value of a 16-byte vector as float, and back, rounded to nearest even.
__device__ __forceinline__ float to_float(float value) {
  return value;
}
__device__ __forceinline__ float to_float(__nv_bfloat16 value) {
  return __bfloat162float(value);
}
__device__ __forceinline__ float to_float(__half value) {
  return __half2float(value);
}
template <typename Scalar>
__device__ __forceinline__ Scalar from_float(float value);
template <>
__device__ __forceinline__ float from_float(float value) {
  return value;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ __forceinline__ __half from_float(float value) {
  return __float2half_rn(value);
}

template <typename Scalar, int kValues>
struct alignas(sizeof(Scalar) * kValues) Vector {
  Scalar values[kValues];
};

// KL divergence: the lanes of a warp share a row.

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

// The second reading of a row finds it in the cache.
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
    if (lane == 0) {
      task.divergence[place] = kl_from_sums(p, q, cross);
    }
  }
}

// The masked sign step: a block takes a piece of one sample.

// Where a value lies in its sample; advancing needs no division.
struct Position {
  int32_t plane, row, column, interleaved;

  __device__ __forceinline__ static Position of(int32_t value, const ImageLayout& layout) {
    Position position;
    position.interleaved = value % layout.interleaved;
    value /= layout.interleaved;
    position.column = value % layout.columns;
    value /= layout.columns;
    position.row = value % layout.rows;
    position.plane = value / layout.rows;
    return position;
  }

  __device__ __forceinline__ void advance(const ImageLayout& layout) {
    if (++interleaved < layout.interleaved) {
      return;
    }
    interleaved = 0;
    if (++column < layout.columns) {
      return;
    }
    column = 0;
    if (++row < layout.rows) {
      return;
    }
    row = 0;
    ++plane;
  }

  __device__ __forceinline__ bool inside(Origin origin, int32_t patch_size) const {
    return static_cast<uint32_t>(row - origin.row) < static_cast<uint32_t>(patch_size) &&
        static_cast<uint32_t>(column - origin.column) < static_cast<uint32_t>(patch_size);
  }

  __device__ __forceinline__ int32_t channel() const {
    return plane + interleaved;
  }
};

// One vector of an image, for all masks: the image is read once, the gradient once and only where a patch is.
template <typename Scalar, int kValues>
__device__ __forceinline__ void perturb_vector(
    const PerturbTask& task, int64_t sample, int32_t first, int32_t image_values, const Origin* origins) {
  using Values = Vector<Scalar, kValues>;
  const int64_t offset = sample * image_values + first;
  const Values image = *reinterpret_cast<const Values*>(static_cast<const Scalar*>(task.images) + offset);
  const Position start = Position::of(first, task.layout);
  Values stepped;
  bool have_stepped = false;
  for (int32_t mask = 0; mask < task.num_masks; ++mask) {
    const Origin origin = origins[mask];
    uint32_t inside = 0;
    Position position = start;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      inside |= (position.inside(origin, task.patch_size) ? 1u : 0u) << i;
      position.advance(task.layout);
    }
    if (inside != 0 && !have_stepped) {
      const Values grad = *reinterpret_cast<const Values*>(static_cast<const Scalar*>(task.grad) + offset);
      position = start;
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        const StepBounds bounds = task.bounds.of(position.channel());
        stepped.values[i] = from_float<Scalar>(sign_step(
            to_float(image.values[i]), to_float(grad.values[i]), bounds.epsilon, bounds.low, bounds.high));
        position.advance(task.layout);
      }
      have_stepped = true;
    }
    Values output = image;
    if (inside != 0) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        output.values[i] = (inside >> i & 1u) != 0 ? stepped.values[i] : image.values[i];
      }
    }
    const int64_t place = int64_t{mask} * task.samples * image_values + offset;
    *reinterpret_cast<Values*>(static_cast<Scalar*>(task.perturbed) + place) = output;
  }
}

template <typename Scalar, int kValues>
__device__ void perturb_piece(const PerturbTask& task, int64_t piece, int64_t pieces_per_image) {
  extern __shared__ Origin origins[];
  const int64_t sample = piece / pieces_per_image;
  const int64_t part = piece % pieces_per_image;
  const int64_t sample_id = sample_id_of(task, sample);
  __syncthreads();  // the last piece's origins are no longer read
  for (int32_t mask = threadIdx.x; mask < task.num_masks; mask += kThreads) {
    origins[mask] = patch_origin(task.seed, sample_id, static_cast<uint32_t>(mask), task.grid);
  }
  __syncthreads();
  const auto image_values = static_cast<int32_t>(task.layout.values());
  const int64_t begin = part * kThreads * kVectorsPerThread;
  for (int step = 0; step < kVectorsPerThread; ++step) {
    const int64_t first = (begin + step * kThreads + threadIdx.x) * kValues;
    if (first < image_values) {
      perturb_vector<Scalar, kValues>(task, sample, static_cast<int32_t>(first), image_values, origins);
    }
  }
}

template <typename LogitScalar, typename ImageScalar, int kValues>
__global__ void __launch_bounds__(kThreads) score_step_kernel(
    const __grid_constant__ KlTask kl, const __grid_constant__ PerturbTask perturb, int64_t kl_blocks,
    int64_t pieces_per_image, int64_t blocks) {
  // Every thread of a block takes the same branch, so the barriers in perturb_piece are safe.
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    if (block < kl_blocks) {
      const int64_t row = block * kRowsPerBlock + threadIdx.x / kWarp;
      if (row < kl.rows) {
        divergence_of_row<LogitScalar>(kl, row, threadIdx.x % kWarp);
      }
    } else {
      perturb_piece<ImageScalar, kValues>(perturb, block - kl_blocks, pieces_per_image);
    }
  }
}

__global__ void __launch_bounds__(kThreads) origins_kernel(const __grid_constant__ OriginsTask task) {
  const int64_t count = task.num_masks * task.samples;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += stride) {
    const auto mask = static_cast<uint32_t>(i / task.samples);
    const Origin origin = patch_origin(task.seed, task.sample_ids[i % task.samples], mask, task.grid);
    task.origins[2 * i] = origin.row;
    task.origins[2 * i + 1] = origin.column;
  }
}

int64_t divide_up(int64_t value, int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0;
}

template <typename LogitScalar, typename ImageScalar, int kValues>
void launch_kernel(const KlTask& kl, const PerturbTask& perturb, cudaStream_t stream) {
  const int64_t kl_blocks = kl.num_masks > 0 ? divide_up(kl.rows, kRowsPerBlock) : 0;
  const int64_t pieces_per_image =
      divide_up(perturb.layout.values(), int64_t{kThreads} * kVectorsPerThread * kValues);
  const int64_t blocks = kl_blocks + perturb.samples * pieces_per_image;
  if (blocks == 0) {
    return;
  }
  const size_t shared_bytes = perturb.num_masks * sizeof(Origin);
  const auto grid = static_cast<unsigned int>(std::min(blocks, kMaxBlocks));
  score_step_kernel<LogitScalar, ImageScalar, kValues>
      <<<grid, kThreads, shared_bytes, stream>>>(kl, perturb, kl_blocks, pieces_per_image, blocks);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename LogitScalar, typename ImageScalar>
void launch_images(const KlTask& kl, const PerturbTask& perturb, cudaStream_t stream) {
  constexpr int kValues = kVectorBytes / sizeof(ImageScalar);
  const bool whole_vectors = perturb.layout.values() % kValues == 0 && is_aligned(perturb.images) &&
      is_aligned(perturb.grad) && is_aligned(perturb.perturbed);
  if (whole_vectors) {
    launch_kernel<LogitScalar, ImageScalar, kValues>(kl, perturb, stream);
  } else {
    launch_kernel<LogitScalar, ImageScalar, 1>(kl, perturb, stream);
  }
}

template <typename LogitScalar>
void launch_logits(const KlTask& kl, const PerturbTask& perturb, cudaStream_t stream) {
  switch (perturb.dtype) {
    case Dtype::float32:
      return launch_images<LogitScalar, float>(kl, perturb, stream);
    case Dtype::bfloat16:
      return launch_images<LogitScalar, __nv_bfloat16>(kl, perturb, stream);
    case Dtype::float16:
      return launch_images<LogitScalar, __half>(kl, perturb, stream);
  }
}

}  // namespace

void launch(const KlTask& kl, const PerturbTask& perturb, cudaStream_t stream) {
  switch (kl.dtype) {
    case Dtype::float32:
      return launch_logits<float>(kl, perturb, stream);
    case Dtype::bfloat16:
      return launch_logits<__nv_bfloat16>(kl, perturb, stream);
    case Dtype::float16:
      return launch_logits<__half>(kl, perturb, stream);
  }
}

void launch(const OriginsTask& task, cudaStream_t stream) {
  const int64_t count = task.num_masks * task.samples;
  if (count == 0) {
    return;
  }
  const auto grid = static_cast<unsigned int>(std::min<int64_t>(divide_up(count, kThreads), kMaxBlocks));
  origins_kernel<<<grid, kThreads, 0, stream>>>(task);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace advrbd::cuda
