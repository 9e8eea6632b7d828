// The masked sign step: a block takes a piece of one sample.
#pragma once

#include <type_traits>

#include "kernel.cuh"

namespace advrbd::cuda {

constexpr int kVectorsPerThread = 4;
constexpr int kVectorBytes = 16;

template <typename Scalar, int kValues>
struct alignas(sizeof(Scalar) * kValues) Vector {
  Scalar values[kValues];
};

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
        stepped.values[i] = from_float<Scalar>(
            sign_step(to_float(image.values[i]), to_float(grad.values[i]), bounds.epsilon, bounds.low, bounds.high));
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

// Piece `piece % pieces_per_image` of sample `piece / pieces_per_image`.
template <typename Scalar, int kValues>
__device__ void perturb_piece(const PerturbTask& task, int64_t piece, int64_t pieces_per_image) {
  Origin* const origins = shared_values<Origin>();
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

inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0;
}

// How a launch covers the images.
struct Pieces {
  int64_t per_image, count;
  size_t shared_bytes;
};

template <int kValues>
Pieces pieces_of(const PerturbTask& task) {
  const int64_t per_image = divide_up(task.layout.values(), int64_t{kThreads} * kVectorsPerThread * kValues);
  return {per_image, task.samples * per_image, task.num_masks * sizeof(Origin)};
}

template <int kNumber>
using Constant = std::integral_constant<int, kNumber>;

// Calls `launch` with the type of the images and the number of their values in a vector: as many as 16 bytes hold where
// the images are made of whole vectors, otherwise 1.
template <typename Launch>
void with_vectors_of(const PerturbTask& task, Launch launch) {
  with_type_of(task, [&](auto type) {
    constexpr int kValues = kVectorBytes / sizeof(typename decltype(type)::type);
    if (task.layout.values() % kValues == 0 && is_aligned(task.images) && is_aligned(task.grad) &&
        is_aligned(task.perturbed)) {
      launch(type, Constant<kValues>{});
    } else {
      launch(type, Constant<1>{});
    }
  });
}

}  // namespace advrbd::cuda
