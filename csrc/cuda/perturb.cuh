// The masked sign step: a block takes a piece of the batch, which may begin and end inside a sample or hold several.
#pragma once

#include "kernel.cuh"

namespace advrbd::cuda {

constexpr int kVectorsPerThread = 4;
constexpr int kVectorBytes = 16;
constexpr int kBlocks = 4;  // that a multiprocessor holds at once, at least: leaves a thread 64 registers

template <int kValues>
constexpr int kPieceValues = kThreads * kVectorsPerThread * kValues;

template <int kBytes>
struct WordOf {
  using type = uint32_t;
};
template <>
struct WordOf<2> {
  using type = uint16_t;
};

// Some values side by side, kept as words: the compiler would give each 16-bit value a register of its own.
template <typename Scalar, int kValues>
struct alignas(sizeof(Scalar) * kValues) Vector {
  static constexpr int kBits = 8 * sizeof(Scalar);
  static constexpr int kPerWord = kValues > 1 ? 32 / kBits : 1;
  using Word = typename WordOf<kPerWord * sizeof(Scalar)>::type;
  using Bits = typename WordOf<sizeof(Scalar)>::type;

  Word words[kValues / kPerWord];

  __device__ __forceinline__ Scalar value(int i) const {
    const auto bits = static_cast<Bits>(words[i / kPerWord] >> (i % kPerWord * kBits));
    Scalar read;
    std::memcpy(&read, &bits, sizeof(read));
    return read;
  }

  // Into a vector whose value number `i` is 0.
  __device__ __forceinline__ void put(int i, Scalar value) {
    Bits bits;
    std::memcpy(&bits, &value, sizeof(bits));
    words[i / kPerWord] |= static_cast<Word>(Word{bits} << (i % kPerWord * kBits));
  }

  // The values of `other` at the places that `chosen` tells, and these at the rest.
  template <typename Chosen>
  __device__ __forceinline__ Vector with(const Vector& other, Chosen chosen) const {
    Vector joined;
#pragma unroll
    for (int word = 0; word < kValues / kPerWord; ++word) {
      Word mask = 0;
#pragma unroll
      for (int i = 0; i < kPerWord; ++i) {
        mask |= chosen(word * kPerWord + i) ? static_cast<Word>(static_cast<Bits>(-1)) << (i * kBits) : Word{0};
      }
      joined.words[word] = static_cast<Word>((words[word] & ~mask) | (other.words[word] & mask));
    }
    return joined;
  }
};

// Division by a number that the launch knows, as a multiplication and a shift.
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

  __device__ __forceinline__ uint32_t quotient(uint32_t n) const {
    return static_cast<uint32_t>((uint64_t{__umulhi(n, multiplier)} + n) >> shift);
  }
};

// How a launch covers the batch.
struct Pieces {
  int64_t count, values;  // of the whole batch
  int32_t masks_at_once;  // the origins of so many masks fit in a block's shared memory
  size_t shared_bytes;
  Divider row_values, rows, planes, interleaved, masks;
};

// Where a vector's first value lies: the sample, counted from the piece's first, the plane, the row, and the value in it.
struct Place {
  int32_t sample, plane, row, value;

  // `value` counts from the start of the piece's first sample.
  __device__ __forceinline__ static Place of(uint32_t value, const Pieces& pieces) {
    const uint32_t line = pieces.row_values.quotient(value);
    const uint32_t plane = pieces.rows.quotient(line);
    const uint32_t sample = pieces.planes.quotient(plane);
    return {
        static_cast<int32_t>(sample), static_cast<int32_t>(plane - sample * pieces.planes.divisor),
        static_cast<int32_t>(line - plane * pieces.rows.divisor),
        static_cast<int32_t>(value - line * pieces.row_values.divisor)};
  }

  // The same vector seen from the next row, which begins inside it: its first value lies before that row.
  __device__ __forceinline__ Place from_next_row(const Pieces& pieces) const {
    Place next{sample, plane, row + 1, value - static_cast<int32_t>(pieces.row_values.divisor)};
    if (next.row == static_cast<int32_t>(pieces.rows.divisor)) {
      next.row = 0;
      ++next.plane;
    }
    if (next.plane == static_cast<int32_t>(pieces.planes.divisor)) {
      next.plane = 0;
      ++next.sample;
    }
    return next;
  }
};

// The values of a vector that lie in a patch, in one row: `width` values from number `begin` on, which may be negative.
struct Interval {
  int32_t begin, width;

  template <int kValues>
  __device__ __forceinline__ static Interval of(const PerturbTask& task, const Place& place, Origin origin) {
    const int32_t interleaved = task.layout.interleaved;
    const bool in_rows = static_cast<uint32_t>(place.row - origin.row) < static_cast<uint32_t>(task.patch_size);
    return {in_rows ? origin.column * interleaved - place.value : kValues, task.patch_size * interleaved};
  }

  template <int kValues>
  __device__ __forceinline__ bool meets_vector() const {
    return begin < kValues && begin + width > 0;
  }

  __device__ __forceinline__ bool contains(int32_t value) const {
    return static_cast<uint32_t>(value - begin) < static_cast<uint32_t>(width);
  }
};

// The first `count` values of a vector in memory. A regular vector is whole and aligned; another's values are read and
// written one by one where it is not.
template <typename Scalar, int kValues, bool kRegular>
struct Access {
  using Values = Vector<Scalar, kValues>;

  __device__ __forceinline__ static bool at_once(const Scalar* place, int32_t count) {
    return kRegular || (count >= kValues && reinterpret_cast<uintptr_t>(place) % sizeof(Values) == 0);
  }

  __device__ __forceinline__ static Values load(const Scalar* place, int32_t count) {
    if (at_once(place, count)) {
      return *reinterpret_cast<const Values*>(place);
    }
    Values read{};
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      if (i < count) {
        read.put(i, place[i]);
      }
    }
    return read;
  }

  __device__ __forceinline__ static void store(Scalar* place, int32_t count, const Values& values) {
    if (at_once(place, count)) {
      *reinterpret_cast<Values*>(place) = values;
      return;
    }
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      if (i < count) {
        place[i] = values.value(i);
      }
    }
  }
};

// `bounds_of` gives those of each value of the vector, in order.
template <typename Scalar, int kValues, typename BoundsOf>
__device__ __forceinline__ Vector<Scalar, kValues> step_of(
    const Vector<Scalar, kValues>& image, const Vector<Scalar, kValues>& grad, BoundsOf bounds_of) {
  Vector<Scalar, kValues> stepped{};
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    const StepBounds bounds = bounds_of(i);
    const float moved =
        sign_step(to_float(image.value(i)), to_float(grad.value(i)), bounds.epsilon, bounds.low, bounds.high);
    stepped.put(i, from_float<Scalar>(moved));
  }
  return stepped;
}

// The bounds that serve all channels are read once, which spares registers.
template <typename Scalar, int kValues>
__device__ __forceinline__ Vector<Scalar, kValues> step_of(
    const PerturbTask& task, const Pieces& pieces, const Vector<Scalar, kValues>& image,
    const Vector<Scalar, kValues>& grad, const Place& place, int32_t next_plane) {
  if (task.bounds.channels == 1) {
    const StepBounds bounds = task.bounds.values[0];
    return step_of(image, grad, [&](int) { return bounds; });
  }
  const int32_t interleaved = task.layout.interleaved;
  const int32_t rest_of_row = static_cast<int32_t>(pieces.row_values.divisor) - place.value;
  int32_t channel = place.value - pieces.interleaved.quotient(place.value) * interleaved;
  return step_of(image, grad, [&](int i) {
    const StepBounds bounds = task.bounds.values[channel + (i < rest_of_row ? place.plane : next_plane)];
    channel = channel + 1 < interleaved ? channel + 1 : 0;
    return bounds;
  });
}

// One vector, for some masks: the image was read once, the gradient is once, and only where a patch is. A vector that is
// not regular may reach into the next row, which may be another sample's.
template <typename Scalar, int kValues, bool kRegular>
__device__ __forceinline__ void perturb_vector(
    const PerturbTask& task, const Pieces& pieces, const Vector<Scalar, kValues>& image, const Place& place,
    const Scalar* grad, Scalar* perturbed, int32_t count, int32_t masks, const Origin* origins) {
  using Memory = Access<Scalar, kValues, kRegular>;
  const int64_t mask_stride = pieces.values;
  const bool has_next = !kRegular &&
      static_cast<int32_t>(pieces.row_values.divisor) - place.value < (count < kValues ? count : kValues);
  const Place next = has_next ? place.from_next_row(pieces) : place;
  const Origin* const own_origins = origins + place.sample * pieces.masks_at_once;
  const Origin* const next_origins = origins + next.sample * pieces.masks_at_once;
  Vector<Scalar, kValues> stepped;
  bool have_stepped = false;
  for (int32_t mask = 0; mask < masks; ++mask, perturbed += mask_stride) {
    const Interval own = Interval::of<kValues>(task, place, own_origins[mask]);
    Interval other = own;
    bool meets = own.meets_vector<kValues>();
    if (has_next) {
      other = Interval::of<kValues>(task, next, next_origins[mask]);
      meets = meets || other.meets_vector<kValues>();
    }
    Vector<Scalar, kValues> output = image;
    if (meets) {
      if (!have_stepped) {
        stepped = step_of(task, pieces, image, Memory::load(grad, count), place, next.plane);
        have_stepped = true;
      }
      output = image.with(stepped, [&](int i) { return own.contains(i) || (!kRegular && other.contains(i)); });
    }
    Memory::store(perturbed, count, output);
  }
}

// Images are read before the barriers.
template <typename Scalar, int kValues, bool kRegular>
__device__ void perturb_piece(const PerturbTask& task, const Pieces& pieces, int64_t piece) {
  using Values = Vector<Scalar, kValues>;
  Origin* const origins = shared_values<Origin>();
  const int64_t begin = piece * kPieceValues<kValues>;
  const int64_t first_sample = begin / task.layout.values();
  const auto begin_in_sample = static_cast<uint32_t>(begin - first_sample * task.layout.values());
  const int64_t rest = pieces.values - begin;
  const int32_t size = rest < kPieceValues<kValues> ? static_cast<int32_t>(rest) : kPieceValues<kValues>;
  const Scalar* const image_values = static_cast<const Scalar*>(task.images) + begin;
  const Scalar* const grad_values = static_cast<const Scalar*>(task.grad) + begin;
  Scalar* perturbed_values = static_cast<Scalar*>(task.perturbed) + begin;
  const auto first_of = [](int step) { return (step * kThreads + static_cast<int>(threadIdx.x)) * kValues; };
  Values images[kVectorsPerThread];
#pragma unroll
  for (int step = 0; step < kVectorsPerThread; ++step) {
    const int32_t first = first_of(step);
    if (first < size) {
      images[step] = Access<Scalar, kValues, kRegular>::load(image_values + first, size - first);
    }
  }
  const int32_t samples = Place::of(begin_in_sample + size - 1, pieces).sample + 1;
  for (int32_t first_mask = 0; first_mask < task.num_masks; first_mask += pieces.masks_at_once) {
    __syncthreads();  // the origins before these are no longer read
#pragma unroll 1
    for (int32_t i = threadIdx.x; i < samples * pieces.masks_at_once; i += kThreads) {
      const int32_t sample = pieces.masks.quotient(i);
      const int32_t mask = first_mask + i - sample * pieces.masks_at_once;
      origins[i] =
          patch_origin(task.seed, sample_id_of(task, first_sample + sample), static_cast<uint32_t>(mask), task.grid);
    }
    __syncthreads();
    const int32_t left = task.num_masks - first_mask;
    const int32_t masks = left < pieces.masks_at_once ? left : pieces.masks_at_once;
#pragma unroll
    for (int step = 0; step < kVectorsPerThread; ++step) {
      const int32_t first = first_of(step);
      if (first < size) {
        perturb_vector<Scalar, kValues, kRegular>(
            task, pieces, images[step], Place::of(begin_in_sample + first, pieces), grad_values + first,
            perturbed_values + first, size - first, masks, origins);
      }
    }
    perturbed_values += masks * pieces.values;
  }
}

template <typename Scalar, int kValues, bool kRegular>
__global__ void __launch_bounds__(kThreads, kBlocks)
    perturb_kernel(const __grid_constant__ PerturbTask task, const __grid_constant__ Pieces pieces) {
  for (int64_t piece = blockIdx.x; piece < pieces.count; piece += gridDim.x) {
    perturb_piece<Scalar, kValues, kRegular>(task, pieces, piece);
  }
}

}  // namespace advrbd::cuda
