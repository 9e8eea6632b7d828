// The masked sign step: a block takes a piece of one sample.
#pragma once

#include "kernel.cuh"

namespace advrbd::cuda {

constexpr int kVectorsPerThread = 4;
constexpr int kVectorBytes = 16;

template <typename Scalar, int kValues>
struct alignas(sizeof(Scalar) * kValues) Vector {
  Scalar values[kValues];
};

// Division of 0 <= n < 2^31 by a number that the launch knows, as a multiplication and a shift.
struct Divider {
  uint32_t divisor = 1, multiplier = 1, shift = 0;

  __host__ __device__ static Divider by(uint32_t divisor) {
    uint32_t shift = 0;
    while ((uint64_t{1} << shift) < divisor) {
      ++shift;
    }
    const uint64_t multiplier = ((uint64_t{1} << 32) * ((uint64_t{1} << shift) - divisor)) / divisor + 1;
    return {divisor, static_cast<uint32_t>(multiplier), shift};
  }

  __device__ __forceinline__ int32_t quotient(int32_t n) const {
    return static_cast<int32_t>((__umulhi(static_cast<uint32_t>(n), multiplier) + static_cast<uint32_t>(n)) >> shift);
  }
};

// How a launch covers the images.
struct Pieces {
  int64_t per_image, count;
  size_t shared_bytes;
  Divider row_values, rows, interleaved;
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

// One vector of an image, for all masks: the image was read once, the gradient is once, and only where a patch is.
template <typename Scalar, int kValues>
__device__ __forceinline__ void perturb_vector(
    const PerturbTask& task, const Vector<Scalar, kValues>& image, int64_t sample_start, int32_t first,
    const Origin* origins) {
  using Values = Vector<Scalar, kValues>;
  const int64_t offset = sample_start + first;
  const int64_t mask_stride = task.samples * task.layout.values();
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
    *reinterpret_cast<Values*>(static_cast<Scalar*>(task.perturbed) + mask * mask_stride + offset) = output;
  }
}

// The same where a vector lies in one row: a patch covers an interval of it, or nothing.
template <typename Scalar, int kValues>
__device__ __forceinline__ void perturb_vector_in_row(
    const PerturbTask& task, const Pieces& pieces, const Vector<Scalar, kValues>& image, int64_t sample_start,
    int32_t first, const Origin* origins) {
  using Values = Vector<Scalar, kValues>;
  const int64_t offset = sample_start + first;
  const int64_t mask_stride = task.samples * task.layout.values();
  const int32_t interleaved = task.layout.interleaved;
  const int32_t line = pieces.row_values.quotient(first);
  const int32_t place = first - line * static_cast<int32_t>(task.layout.row_values());
  const int32_t plane = pieces.rows.quotient(line);
  const int32_t row = line - plane * task.layout.rows;
  const int32_t width = task.patch_size * interleaved;
  Values stepped;
  bool have_stepped = false;
  for (int32_t mask = 0; mask < task.num_masks; ++mask) {
    const Origin origin = origins[mask];
    const int32_t begin = origin.column * interleaved - place;  // of the patch, in the vector
    Values output = image;
    if (static_cast<uint32_t>(row - origin.row) < static_cast<uint32_t>(task.patch_size) && begin < kValues &&
        begin + width > 0) {
      if (!have_stepped) {
        const Values grad = *reinterpret_cast<const Values*>(static_cast<const Scalar*>(task.grad) + offset);
        int32_t channel = interleaved > 1 ? place - pieces.interleaved.quotient(place) * interleaved : plane;
#pragma unroll
        for (int i = 0; i < kValues; ++i) {
          const StepBounds bounds = task.bounds.of(channel);
          stepped.values[i] = from_float<Scalar>(
              sign_step(to_float(image.values[i]), to_float(grad.values[i]), bounds.epsilon, bounds.low, bounds.high));
          if (interleaved > 1) {
            channel = channel + 1 < interleaved ? channel + 1 : 0;
          }
        }
        have_stepped = true;
      }
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        output.values[i] = static_cast<uint32_t>(i - begin) < static_cast<uint32_t>(width) ? stepped.values[i]
                                                                                           : image.values[i];
      }
    }
    *reinterpret_cast<Values*>(static_cast<Scalar*>(task.perturbed) + mask * mask_stride + offset) = output;
  }
}

// Piece `piece % pieces.per_image` of sample `piece / pieces.per_image`. Images are read before the barriers.
template <typename Scalar, int kValues, bool kInRows>
__device__ void perturb_piece(const PerturbTask& task, const Pieces& pieces, int64_t piece) {
  using Values = Vector<Scalar, kValues>;
  Origin* const origins = shared_values<Origin>();
  const int64_t sample = pieces.per_image == 1 ? piece : piece / pieces.per_image;
  const int64_t part = piece - sample * pieces.per_image;
  const int64_t image_values = task.layout.values();
  const int64_t sample_start = sample * image_values;
  const auto first_of = [&](int step) {
    return ((part * kVectorsPerThread + step) * kThreads + threadIdx.x) * kValues;
  };
  Values images[kVectorsPerThread];
#pragma unroll
  for (int step = 0; step < kVectorsPerThread; ++step) {
    if (first_of(step) < image_values) {
      images[step] =
          *reinterpret_cast<const Values*>(static_cast<const Scalar*>(task.images) + sample_start + first_of(step));
    }
  }
  const int64_t sample_id = sample_id_of(task, sample);
  __syncthreads();  // the last piece's origins are no longer read
  for (int32_t mask = threadIdx.x; mask < task.num_masks; mask += kThreads) {
    origins[mask] = patch_origin(task.seed, sample_id, static_cast<uint32_t>(mask), task.grid);
  }
  __syncthreads();
#pragma unroll
  for (int step = 0; step < kVectorsPerThread; ++step) {
    const int64_t first = first_of(step);
    if (first < image_values) {
      if constexpr (kInRows) {
        perturb_vector_in_row<Scalar, kValues>(
            task, pieces, images[step], sample_start, static_cast<int32_t>(first), origins);
      } else {
        perturb_vector<Scalar, kValues>(task, images[step], sample_start, static_cast<int32_t>(first), origins);
      }
    }
  }
}

template <typename Scalar, int kValues, bool kInRows>
__global__ void __launch_bounds__(kThreads)
    perturb_kernel(const __grid_constant__ PerturbTask task, const __grid_constant__ Pieces pieces) {
  for (int64_t piece = blockIdx.x; piece < pieces.count; piece += gridDim.x) {
    perturb_piece<Scalar, kValues, kInRows>(task, pieces, piece);
  }
}

}  // namespace advrbd::cuda
