#include "prepare.h"

#include <algorithm>

#include "checks.h"

namespace advrbd {
namespace {

Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::BFloat16:
      return Dtype::bfloat16;
    case ScalarType::Half:
      return Dtype::float16;
    default:
      return Dtype::float32;
  }
}

// The channels of a pixel are neighbours in memory (checks.py: is_channels_last).
bool is_channels_last(const Tensor& images) {
  return images.size(1) > 1 && images.stride(1) == 1 && images.stride(2) > 1 && images.stride(3) > 1;
}

ImageLayout layout_of(const Tensor& images, bool channels_last) {
  const auto channels = static_cast<int32_t>(images.size(1));
  return {
      channels_last ? 1 : channels, static_cast<int32_t>(images.size(2)), static_cast<int32_t>(images.size(3)),
      channels_last ? channels : 1};
}

Tensor dense_images(const Tensor& images, bool channels_last) {
  if (channels_last) {
    return is_dense(images, {0, 2, 3, 1}) ? images : contiguous(images, torch::headeronly::MemoryFormat::ChannelsLast);
  }
  return is_dense(images, {0, 1, 2, 3}) ? images : contiguous(images);
}

Tensor empty_perturbed(const Tensor& images, int64_t masks, bool channels_last) {
  const int64_t samples = images.size(0), channels = images.size(1), rows = images.size(2), columns = images.size(3);
  const int64_t plane = rows * columns, image = channels * plane, mask = std::max<int64_t>(samples, 1) * image;
  if (channels_last) {
    return empty(
        {masks, samples, channels, rows, columns}, {mask, image, 1, columns * channels, channels}, images,
        dtype_code(images));
  }
  return empty({masks, samples, channels, rows, columns}, {mask, image, plane, columns, 1}, images, dtype_code(images));
}

ChannelBounds bounds_of(Numbers epsilon, Numbers low, Numbers high) {
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

Tensor dense_ids(const Tensor& sample_ids) {
  return is_dense(sample_ids, {0}) ? sample_ids : contiguous(sample_ids);
}

const int64_t* ids_of(const Tensor& sample_ids) {
  return static_cast<const int64_t*>(sample_ids.const_data_ptr());
}

}  // namespace

PreparedPerturb prepare_perturb(
    const Tensor& images, const Tensor& grad, Numbers epsilon, int64_t patch_size, int64_t num_masks, int64_t seed,
    const std::optional<Tensor>& sample_ids, Numbers low, Numbers high) {
  check_perturb(images, grad, epsilon, patch_size, num_masks, sample_ids, low, high);
  const bool channels_last = is_channels_last(images);
  PreparedPerturb prepared;
  prepared.images = dense_images(images, channels_last);
  prepared.grad = dense_images(grad, channels_last);
  prepared.perturbed = empty_perturbed(images, num_masks, channels_last);
  PerturbTask& task = prepared.task;
  if (sample_ids) {
    prepared.sample_ids = dense_ids(*sample_ids);
    task.sample_ids = ids_of(*prepared.sample_ids);
  }
  task.dtype = dtype_of(images);
  task.images = prepared.images->const_data_ptr();
  task.grad = prepared.grad->const_data_ptr();
  task.perturbed = prepared.perturbed->mutable_data_ptr();
  task.samples = images.size(0);
  task.num_masks = static_cast<int32_t>(num_masks);
  task.patch_size = static_cast<int32_t>(patch_size);
  task.seed = static_cast<uint64_t>(seed);
  task.grid = grid_of(images.size(2), images.size(3), patch_size);
  task.layout = layout_of(images, channels_last);
  task.bounds = bounds_of(epsilon, low, high);
  return prepared;
}

PreparedKl prepare_kl(const Tensor& logits, const Tensor& perturbed_logits) {
  check_kl_divergence(logits, perturbed_logits);
  const int64_t masks = perturbed_logits.size(0), rows = logits.size(0);
  PreparedKl prepared;
  prepared.logits = is_dense(logits, {0, 1}) ? logits : contiguous(logits);
  prepared.perturbed_logits = is_dense(perturbed_logits, {0, 1, 2}) ? perturbed_logits : contiguous(perturbed_logits);
  prepared.divergence = empty({masks, rows}, {std::max<int64_t>(rows, 1), 1}, logits, aoti_torch_dtype_float32());
  KlTask& task = prepared.task;
  task.dtype = dtype_of(logits);
  task.logits = prepared.logits->const_data_ptr();
  task.perturbed_logits = prepared.perturbed_logits->const_data_ptr();
  task.divergence = static_cast<float*>(prepared.divergence->mutable_data_ptr());
  task.rows = rows;
  task.num_masks = masks;
  task.classes = logits.size(1);
  return prepared;
}

PreparedOrigins prepare_origins(
    const Tensor& sample_ids, int64_t height, int64_t width, int64_t patch_size, int64_t num_masks, int64_t seed) {
  check_sample_ids(sample_ids);
  check_patch(height, width, patch_size, num_masks);
  const int64_t samples = sample_ids.size(0);
  PreparedOrigins prepared;
  prepared.sample_ids = dense_ids(sample_ids);
  prepared.origins =
      empty({num_masks, samples, 2}, {2 * std::max<int64_t>(samples, 1), 2, 1}, sample_ids, dtype_code(sample_ids));
  OriginsTask& task = prepared.task;
  task.sample_ids = ids_of(*prepared.sample_ids);
  task.origins = static_cast<int64_t*>(prepared.origins->mutable_data_ptr());
  task.samples = samples;
  task.num_masks = static_cast<int32_t>(num_masks);
  task.seed = static_cast<uint64_t>(seed);
  task.grid = grid_of(height, width, patch_size);
  return prepared;
}

PreparedUniform prepare_uniform(const Tensor& sample_ids, int64_t high, int64_t seed) {
  check_sample_ids(sample_ids);
  check_high(high);
  PreparedUniform prepared;
  prepared.sample_ids = dense_ids(sample_ids);
  prepared.values = empty({sample_ids.size(0), 2}, {2, 1}, sample_ids, dtype_code(sample_ids));
  UniformTask& task = prepared.task;
  task.sample_ids = ids_of(*prepared.sample_ids);
  task.values = static_cast<int64_t*>(prepared.values->mutable_data_ptr());
  task.samples = sample_ids.size(0);
  task.high = static_cast<int32_t>(high);
  task.seed = static_cast<uint64_t>(seed);
  return prepared;
}

}  // namespace advrbd
