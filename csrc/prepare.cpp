#include "prepare.h"

#include <ATen/ops/empty.h>

#include "checks.h"

namespace advrbd {
namespace {

Dtype dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kBFloat16:
      return Dtype::bfloat16;
    case at::kHalf:
      return Dtype::float16;
    default:
      return Dtype::float32;
  }
}

// The channels of a pixel are neighbours in memory (checks.py: is_channels_last).
bool is_channels_last(const at::Tensor& images) {
  return images.size(1) > 1 && images.stride(1) == 1 && images.stride(2) > 1 && images.stride(3) > 1;
}

ImageLayout layout_of(const at::Tensor& images, bool channels_last) {
  const auto channels = static_cast<int32_t>(images.size(1));
  return {
      channels_last ? 1 : channels, static_cast<int32_t>(images.size(2)), static_cast<int32_t>(images.size(3)),
      channels_last ? channels : 1};
}

at::Tensor empty_perturbed(const at::Tensor& images, int64_t num_masks, bool channels_last) {
  const int64_t samples = images.size(0), channels = images.size(1), height = images.size(2), width = images.size(3);
  if (channels_last) {
    return at::empty({num_masks, samples, height, width, channels}, images.options()).permute({0, 1, 4, 2, 3});
  }
  return at::empty({num_masks, samples, channels, height, width}, images.options());
}

ChannelBounds bounds_of(at::ArrayRef<double> epsilon, at::ArrayRef<double> low, at::ArrayRef<double> high) {
  ChannelBounds bounds;
  bounds.channels = static_cast<int32_t>(std::max({epsilon.size(), low.size(), high.size()}));
  for (int32_t channel = 0; channel < bounds.channels; ++channel) {
    bounds.values[channel] = {
        static_cast<float>(epsilon[channel % epsilon.size()]), static_cast<float>(low[channel % low.size()]),
        static_cast<float>(high[channel % high.size()])};
  }
  return bounds;
}

PatchGrid grid_of(int64_t height, int64_t width, int64_t patch_size) {
  return {static_cast<int32_t>(height - patch_size + 1), static_cast<int32_t>(width - patch_size + 1)};
}

}  // namespace

PreparedPerturb prepare_perturb(
    const at::Tensor& images, const at::Tensor& grad, at::ArrayRef<double> epsilon, int64_t patch_size,
    int64_t num_masks, int64_t seed, const std::optional<at::Tensor>& sample_ids, at::ArrayRef<double> low,
    at::ArrayRef<double> high) {
  check_perturb(images, grad, epsilon, patch_size, num_masks, sample_ids, low, high);
  const bool channels_last = is_channels_last(images);
  const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  PreparedPerturb prepared;
  prepared.images = images.contiguous(format);
  prepared.grad = grad.contiguous(format);
  prepared.perturbed = empty_perturbed(images, num_masks, channels_last);
  PerturbTask& task = prepared.task;
  if (sample_ids) {
    prepared.sample_ids = sample_ids->contiguous();
    task.sample_ids = prepared.sample_ids.const_data_ptr<int64_t>();
  }
  task.dtype = dtype_of(images);
  task.images = prepared.images.const_data_ptr();
  task.grad = prepared.grad.const_data_ptr();
  task.perturbed = prepared.perturbed.mutable_data_ptr();
  task.samples = images.size(0);
  task.num_masks = static_cast<int32_t>(num_masks);
  task.patch_size = static_cast<int32_t>(patch_size);
  task.seed = static_cast<uint64_t>(seed);
  task.grid = grid_of(images.size(2), images.size(3), patch_size);
  task.layout = layout_of(images, channels_last);
  task.bounds = bounds_of(epsilon, low, high);
  return prepared;
}

PreparedKl prepare_kl(const at::Tensor& logits, const at::Tensor& perturbed_logits) {
  check_kl_divergence(logits, perturbed_logits);
  PreparedKl prepared;
  prepared.logits = logits.contiguous();
  prepared.perturbed_logits = perturbed_logits.contiguous();
  prepared.divergence =
      at::empty({perturbed_logits.size(0), perturbed_logits.size(1)}, logits.options().dtype(at::kFloat));
  KlTask& task = prepared.task;
  task.dtype = dtype_of(logits);
  task.logits = prepared.logits.const_data_ptr();
  task.perturbed_logits = prepared.perturbed_logits.const_data_ptr();
  task.divergence = prepared.divergence.mutable_data_ptr<float>();
  task.rows = logits.size(0);
  task.num_masks = perturbed_logits.size(0);
  task.classes = logits.size(1);
  return prepared;
}

PreparedOrigins prepare_origins(
    const at::Tensor& sample_ids, int64_t height, int64_t width, int64_t patch_size, int64_t num_masks, int64_t seed) {
  check_sample_ids(sample_ids);
  check_patch(height, width, patch_size, num_masks);
  PreparedOrigins prepared;
  prepared.sample_ids = sample_ids.contiguous();
  prepared.origins = at::empty({num_masks, sample_ids.size(0), 2}, sample_ids.options());
  OriginsTask& task = prepared.task;
  task.sample_ids = prepared.sample_ids.const_data_ptr<int64_t>();
  task.origins = prepared.origins.mutable_data_ptr<int64_t>();
  task.samples = sample_ids.size(0);
  task.num_masks = static_cast<int32_t>(num_masks);
  task.seed = static_cast<uint64_t>(seed);
  task.grid = grid_of(height, width, patch_size);
  return prepared;
}

PreparedUniform prepare_uniform(const at::Tensor& sample_ids, int64_t high, int64_t seed) {
  check_sample_ids(sample_ids);
  check_high(high);
  PreparedUniform prepared;
  prepared.sample_ids = sample_ids.contiguous();
  prepared.values = at::empty({sample_ids.size(0), 2}, sample_ids.options());
  UniformTask& task = prepared.task;
  task.sample_ids = prepared.sample_ids.const_data_ptr<int64_t>();
  task.values = prepared.values.mutable_data_ptr<int64_t>();
  task.samples = sample_ids.size(0);
  task.high = static_cast<int32_t>(high);
  task.seed = static_cast<uint64_t>(seed);
  return prepared;
}

}  // namespace advrbd
