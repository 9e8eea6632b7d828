// Argument checks; advrbd_plugin/ops/checks.py says the same in Python for the reference and the fakes.
#pragma once

#include <optional>

#include "tensors.h"

namespace advrbd {

void check_patch(int64_t height, int64_t width, int64_t patch_size, int64_t num_masks);
void check_sample_ids(const Tensor& sample_ids);
void check_high(int64_t high);
void check_perturb(
    const Tensor& images, const Tensor& grad, Numbers epsilon, int64_t patch_size, int64_t num_masks,
    const std::optional<Tensor>& sample_ids, Numbers low, Numbers high);
void check_kl_divergence(const Tensor& logits, const Tensor& perturbed_logits);
void check_halves(
    const std::optional<Tensor>& logits, const std::optional<Tensor>& perturbed_logits,
    const std::optional<Tensor>& images, const std::optional<Tensor>& grad);

}  // namespace advrbd
