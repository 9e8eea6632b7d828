// How many blocks cover a task, and which kernel takes it.
#pragma once

#include <type_traits>

#include "kl_divergence.cuh"
#include "launch_kernel.h"
#include "perturb.cuh"

namespace advrbd::cuda {

inline int64_t blocks_of(const KlTask& task) {
  return task.num_masks > 0 ? divide_up(task.rows, kRowsPerBlock) : 0;
}

inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0;
}

template <int kValues>
Pieces pieces_of(const PerturbTask& task) {
  constexpr int64_t kMostOrigins = 2048;  // 16 KiB of a block's shared memory
  const ImageLayout& layout = task.layout;
  const int64_t values = task.samples * layout.values();
  const int64_t samples_of_piece = std::min(task.samples, divide_up(kPieceValues<kValues> - 1, layout.values()) + 1);
  const int64_t masks = std::min<int64_t>(task.num_masks, kMostOrigins / samples_of_piece);
  return {
      divide_up(values, kPieceValues<kValues>),
      values,
      static_cast<int32_t>(masks),
      samples_of_piece * masks * sizeof(Origin),
      Divider::by(static_cast<uint32_t>(layout.row_values())),
      Divider::by(static_cast<uint32_t>(layout.rows)),
      Divider::by(static_cast<uint32_t>(layout.planes)),
      Divider::by(static_cast<uint32_t>(layout.interleaved)),
      Divider::by(static_cast<uint32_t>(masks))};
}

template <int kNumber>
using Constant = std::integral_constant<int, kNumber>;

// Calls `launch` with the type of the images, the number of their values in a vector (as many as 16 bytes hold, but 1
// where a row is shorter), and whether all vectors are regular: aligned, whole and in one row each.
template <typename Launch>
void with_vectors_of(const PerturbTask& task, Launch launch) {
  with_type_of(task, [&](auto type) {
    constexpr int kValues = kVectorBytes / sizeof(typename decltype(type)::type);
    const bool aligned = is_aligned(task.images) && is_aligned(task.grad) && is_aligned(task.perturbed);
    if (task.layout.row_values() < kValues) {
      launch(type, Constant<1>{}, std::true_type{});
    } else if (aligned && task.layout.row_values() % kValues == 0) {
      launch(type, Constant<kValues>{}, std::true_type{});
    } else {
      launch(type, Constant<kValues>{}, std::false_type{});
    }
  });
}

}  // namespace advrbd::cuda
