// The ops, written once for every device: a Device has a `launch` for each kind of task.
#pragma once

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "checks.h"
#include "prepare.h"

namespace advrbd {

template <typename Device>
struct Ops {
  static Tensor patch_origins(
      const Tensor& sample_ids, int64_t height, int64_t width, int64_t patch_size, int64_t num_masks, int64_t seed) {
    const auto prepared = prepare_origins(sample_ids, height, width, patch_size, num_masks, seed);
    Device::launch(sample_ids, prepared.task);
    return *prepared.origins;
  }

  static Tensor philox_uniform(const Tensor& sample_ids, int64_t high, int64_t seed) {
    const auto prepared = prepare_uniform(sample_ids, high, seed);
    Device::launch(sample_ids, prepared.task);
    return *prepared.values;
  }

  static Tensor perturb(
      const Tensor& images, const Tensor& grad, Numbers epsilon, int64_t patch_size, int64_t num_masks, int64_t seed,
      const std::optional<Tensor>& sample_ids, Numbers low, Numbers high) {
    const auto prepared = prepare_perturb(images, grad, epsilon, patch_size, num_masks, seed, sample_ids, low, high);
    Device::launch(images, prepared.task);
    return *prepared.perturbed;
  }

  static Tensor kl_divergence(const Tensor& logits, const Tensor& perturbed_logits) {
    const auto prepared = prepare_kl(logits, perturbed_logits);
    Device::launch(logits, prepared.task);
    return *prepared.divergence;
  }

  static std::tuple<Tensor, Tensor> score_step(
      const std::optional<Tensor>& logits, const std::optional<Tensor>& perturbed_logits,
      const std::optional<Tensor>& images, const std::optional<Tensor>& grad, Numbers epsilon, int64_t patch_size,
      int64_t num_masks, int64_t seed, const std::optional<Tensor>& sample_ids, Numbers low, Numbers high) {
    check_halves(logits, perturbed_logits, images, grad);
    const Tensor& given = images ? *images : *logits;
    const auto nothing = [&] { return empty({0}, {1}, given, aoti_torch_dtype_float32()); };
    PreparedKl kl;
    PreparedPerturb perturb;
    if (logits) {
      kl = prepare_kl(*logits, *perturbed_logits);
    } else {
      kl.divergence = nothing();
    }
    if (images) {
      perturb = prepare_perturb(*images, *grad, epsilon, patch_size, num_masks, seed, sample_ids, low, high);
    } else {
      perturb.perturbed = nothing();
    }
    Device::launch(given, kl.task, perturb.task);
    return {*perturb.perturbed, *kl.divergence};
  }

  static void register_in(torch::stable::detail::StableLibrary& library) {
    library.impl("patch_origins", TORCH_BOX(&patch_origins));
    library.impl("philox_uniform", TORCH_BOX(&philox_uniform));
    library.impl("perturb", TORCH_BOX(&perturb));
    library.impl("kl_divergence", TORCH_BOX(&kl_divergence));
    library.impl("score_step", TORCH_BOX(&score_step));
  }
};

}  // namespace advrbd
