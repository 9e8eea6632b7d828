// From the arguments of an op to a task for a kernel: checks, dense memory, output. Shared by CPU and CUDA.
#pragma once

#include <optional>

#include "tasks.h"
#include "tensors.h"

namespace advrbd {

// A task with the tensors that own its memory.
struct PreparedPerturb {
  PerturbTask task;
  std::optional<Tensor> images, grad, sample_ids, perturbed;
};

struct PreparedKl {
  KlTask task;
  std::optional<Tensor> logits, perturbed_logits, divergence;
};

struct PreparedOrigins {
  OriginsTask task;
  std::optional<Tensor> sample_ids, origins;
};

struct PreparedUniform {
  UniformTask task;
  std::optional<Tensor> sample_ids, values;
};

PreparedPerturb prepare_perturb(
    const Tensor& images, const Tensor& grad, Numbers epsilon, int64_t patch_size, int64_t num_masks, int64_t seed,
    const std::optional<Tensor>& sample_ids, Numbers low, Numbers high);
PreparedKl prepare_kl(const Tensor& logits, const Tensor& perturbed_logits);
PreparedOrigins prepare_origins(
    const Tensor& sample_ids, int64_t height, int64_t width, int64_t patch_size, int64_t num_masks, int64_t seed);
PreparedUniform prepare_uniform(const Tensor& sample_ids, int64_t high, int64_t seed);

}  // namespace advrbd
