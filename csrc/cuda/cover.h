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
  const ImageLayout& layout = task.layout;
  const int64_t per_image = divide_up(layout.values(), int64_t{kThreads} * kVectorsPerThread * kValues);
  return {
      per_image,
      task.samples * per_image,
      task.num_masks * sizeof(Origin),
      Divider::by(static_cast<uint32_t>(layout.row_values())),
      Divider::by(static_cast<uint32_t>(layout.rows)),
      Divider::by(static_cast<uint32_t>(layout.interleaved))};
}

template <int kNumber>
using Constant = std::integral_constant<int, kNumber>;

// Calls `launch` with the type of the images, the number of their values in a vector (as many as 16 bytes hold where the
// images are made of whole vectors, otherwise 1), and whether their rows are made of whole vectors.
template <typename Launch>
void with_vectors_of(const PerturbTask& task, Launch launch) {
  with_type_of(task, [&](auto type) {
    constexpr int kValues = kVectorBytes / sizeof(typename decltype(type)::type);
    const bool aligned = is_aligned(task.images) && is_aligned(task.grad) && is_aligned(task.perturbed);
    if (aligned && task.layout.row_values() % kValues == 0) {
      launch(type, Constant<kValues>{}, std::true_type{});
    } else if (aligned && task.layout.values() % kValues == 0) {
      launch(type, Constant<kValues>{}, std::false_type{});
    } else {
      launch(type, Constant<1>{}, std::false_type{});
    }
  });
}

}  // namespace advrbd::cuda
