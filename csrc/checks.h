// Argument checks; advrbd_plugin/ops/checks.py says the same in Python for the reference and the fakes.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <optional>

namespace advrbd {

void check_patch(int64_t height, int64_t width, int64_t patch_size, int64_t num_masks);
void check_sample_ids(const at::Tensor& sample_ids);
void check_high(int64_t high);
void check_perturb(
    const at::Tensor& images, const at::Tensor& grad, at::ArrayRef<double> epsilon, int64_t patch_size,
    int64_t num_masks, const std::optional<at::Tensor>& sample_ids, at::ArrayRef<double> low,
    at::ArrayRef<double> high);
void check_kl_divergence(const at::Tensor& logits, const at::Tensor& perturbed_logits);
void check_halves(
    const std::optional<at::Tensor>& logits, const std::optional<at::Tensor>& perturbed_logits,
    const std::optional<at::Tensor>& images, const std::optional<at::Tensor>& grad);

}  // namespace advrbd
