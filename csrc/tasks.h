// What a kernel is asked to do, free of PyTorch headers: checked arguments, raw pointers, dense memory.
#pragma once

#include <cstdint>

#include "arithmetic.h"

namespace advrbd {

constexpr int64_t kMaxMasks = 4096;  // the origins of one sample's masks fit in a CUDA block's shared memory
constexpr int64_t kMaxChannels = 128;  // per-channel values travel as kernel parameters

enum class Dtype { float32, bfloat16, float16 };

ADVRBD_INLINE int64_t bytes_of(Dtype dtype) {
  return dtype == Dtype::float32 ? 4 : 2;
}

// One sample in memory: planes x rows x columns x interleaved values. Contiguous: a plane is a channel, nothing is
// interleaved. channels_last: one plane, the channels interleaved.
struct ImageLayout {
  int32_t planes, rows, columns, interleaved;

  ADVRBD_INLINE int64_t row_values() const {
    return int64_t{columns} * interleaved;
  }
  ADVRBD_INLINE int64_t values() const {
    return int64_t{planes} * rows * row_values();
  }
};

struct ChannelBounds {
  StepBounds values[kMaxChannels];
  int32_t channels;  // 1 where one value serves all

  ADVRBD_INLINE StepBounds of(int32_t channel) const {
    return values[channels == 1 ? 0 : channel];
  }
};

struct PerturbTask {
  Dtype dtype = Dtype::float32;
  const void* images = nullptr;
  const void* grad = nullptr;
  void* perturbed = nullptr;  // num_masks x samples x layout
  const int64_t* sample_ids = nullptr;  // null: 0, 1, 2, ...
  int64_t samples = 0;
  int32_t num_masks = 0;
  int32_t patch_size = 0;
  uint64_t seed = 0;
  PatchGrid grid{};
  ImageLayout layout{};
  ChannelBounds bounds{};
};

struct KlTask {
  Dtype dtype = Dtype::float32;
  const void* logits = nullptr;  // rows x classes
  const void* perturbed_logits = nullptr;  // num_masks x rows x classes
  float* divergence = nullptr;  // num_masks x rows
  int64_t rows = 0;
  int64_t num_masks = 0;
  int64_t classes = 0;
};

struct OriginsTask {
  const int64_t* sample_ids = nullptr;
  int64_t* origins = nullptr;  // num_masks x samples x 2
  int64_t samples = 0;
  int32_t num_masks = 0;
  uint64_t seed = 0;
  PatchGrid grid{};
};

struct UniformTask {
  const int64_t* sample_ids = nullptr;
  int64_t* values = nullptr;  // samples x 2
  int64_t samples = 0;
  int32_t high = 1;
  uint64_t seed = 0;
};

// The two values of sample number `sample`.
ADVRBD_INLINE void draw(const UniformTask& task, int64_t sample) {
  const Words words = words_of(task.seed, task.sample_ids[sample], 0);
  task.values[2 * sample] = scaled(words.first, task.high);
  task.values[2 * sample + 1] = scaled(words.second, task.high);
}

ADVRBD_INLINE int64_t sample_id_of(const PerturbTask& task, int64_t sample) {
  return task.sample_ids == nullptr ? sample : task.sample_ids[sample];
}

}  // namespace advrbd
