// From the arguments of an op to a task for a kernel: checks, dense memory, output. Shared by CPU and CUDA.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <optional>

#include "tasks.h"

namespace advrbd {

// A task with the tensors that own its memory.
struct PreparedPerturb {
  PerturbTask task;
  at::Tensor images, grad, sample_ids, perturbed;
};

struct PreparedKl {
  KlTask task;
  at::Tensor logits, perturbed_logits, divergence;
};

struct PreparedOrigins {
  OriginsTask task;
  at::Tensor sample_ids, origins;
};

struct PreparedUniform {
  UniformTask task;
  at::Tensor sample_ids, values;
};

PreparedPerturb prepare_perturb(
    const at::Tensor& images, const at::Tensor& grad, at::ArrayRef<double> epsilon, int64_t patch_size,
    int64_t num_masks, int64_t seed, const std::optional<at::Tensor>& sample_ids, at::ArrayRef<double> low,
    at::ArrayRef<double> high);
PreparedKl prepare_kl(const at::Tensor& logits, const at::Tensor& perturbed_logits);
PreparedOrigins prepare_origins(
    const at::Tensor& sample_ids, int64_t height, int64_t width, int64_t patch_size, int64_t num_masks, int64_t seed);
PreparedUniform prepare_uniform(const at::Tensor& sample_ids, int64_t high, int64_t seed);

}  // namespace advrbd
