// The ops, written once for every device: a Device has a `launch` for each kind of task.
#pragma once

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <tuple>

#include "checks.h"
#include "prepare.h"

namespace advrbd {

template <typename Device>
struct Ops {
  static at::Tensor patch_origins(
      const at::Tensor& sample_ids, int64_t height, int64_t width, int64_t patch_size, int64_t num_masks,
      int64_t seed) {
    const auto prepared = prepare_origins(sample_ids, height, width, patch_size, num_masks, seed);
    Device::launch(sample_ids.device(), prepared.task);
    return prepared.origins;
  }

  static at::Tensor philox_uniform(const at::Tensor& sample_ids, int64_t high, int64_t seed) {
    const auto prepared = prepare_uniform(sample_ids, high, seed);
    Device::launch(sample_ids.device(), prepared.task);
    return prepared.values;
  }

  static at::Tensor perturb(
      const at::Tensor& images, const at::Tensor& grad, at::ArrayRef<double> epsilon, int64_t patch_size,
      int64_t num_masks, int64_t seed, const std::optional<at::Tensor>& sample_ids, at::ArrayRef<double> low,
      at::ArrayRef<double> high) {
    const auto prepared = prepare_perturb(images, grad, epsilon, patch_size, num_masks, seed, sample_ids, low, high);
    Device::launch(images.device(), prepared.task);
    return prepared.perturbed;
  }

  static at::Tensor kl_divergence(const at::Tensor& logits, const at::Tensor& perturbed_logits) {
    const auto prepared = prepare_kl(logits, perturbed_logits);
    Device::launch(logits.device(), prepared.task);
    return prepared.divergence;
  }

  static std::tuple<at::Tensor, at::Tensor> score_step(
      const std::optional<at::Tensor>& logits, const std::optional<at::Tensor>& perturbed_logits,
      const std::optional<at::Tensor>& images, const std::optional<at::Tensor>& grad, at::ArrayRef<double> epsilon,
      int64_t patch_size, int64_t num_masks, int64_t seed, const std::optional<at::Tensor>& sample_ids,
      at::ArrayRef<double> low, at::ArrayRef<double> high) {
    check_halves(logits, perturbed_logits, images, grad);
    const auto options = (images ? *images : *logits).options().dtype(at::kFloat);
    PreparedKl kl;
    PreparedPerturb perturb;
    if (logits) {
      kl = prepare_kl(*logits, *perturbed_logits);
    } else {
      kl.divergence = at::empty({0}, options);
    }
    if (images) {
      perturb = prepare_perturb(*images, *grad, epsilon, patch_size, num_masks, seed, sample_ids, low, high);
    } else {
      perturb.perturbed = at::empty({0}, options);
    }
    Device::launch(options.device(), kl.task, perturb.task);
    return {perturb.perturbed, kl.divergence};
  }

  static void register_in(torch::Library& library) {
    library.impl("patch_origins", &patch_origins);
    library.impl("philox_uniform", &philox_uniform);
    library.impl("perturb", &perturb);
    library.impl("kl_divergence", &kl_divergence);
    library.impl("score_step", &score_step);
  }
};

}  // namespace advrbd
