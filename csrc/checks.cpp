#include "checks.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tasks.h"

namespace advrbd {
namespace {

const char* dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return "float32";
    case at::kBFloat16:
      return "bfloat16";
    case at::kHalf:
      return "float16";
    case at::kDouble:
      return "float64";
    case at::kInt:
      return "int32";
    case at::kLong:
      return "int64";
    case at::kByte:
      return "uint8";
    default:
      return c10::toString(dtype);
  }
}

void check_float(const char* name, const at::Tensor& tensor, int64_t dimensions, const char* meaning) {
  const auto dtype = tensor.scalar_type();
  TORCH_CHECK_TYPE(
      dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf, name,
      " must be float32, bfloat16 or float16, got ", dtype_name(dtype));
  TORCH_CHECK_VALUE(
      tensor.dim() == dimensions, name, " must have ", dimensions, " dimensions ", meaning, ", got ", tensor.dim());
}

void check_like(const char* name, const at::Tensor& tensor, const char* other_name, const at::Tensor& other) {
  TORCH_CHECK_TYPE(
      tensor.scalar_type() == other.scalar_type(), name, " must have the dtype of ", other_name, " (",
      dtype_name(other.scalar_type()), "), got ", dtype_name(tensor.scalar_type()));
}

void check_device(const char* name, const at::Tensor& tensor, const char* other_name, const at::Tensor& other) {
  TORCH_CHECK_VALUE(
      tensor.device() == other.device(), name, " must be on the device of ", other_name, " (", other.device(),
      "), got ", tensor.device());
}

void check_count(const char* name, at::ArrayRef<double> values, int64_t channels) {
  const auto count = static_cast<int64_t>(values.size());
  TORCH_CHECK_VALUE(
      count == 1 || count == channels, name, " must be a number or one per channel (", channels, "), got ", count,
      " values");
  TORCH_CHECK_VALUE(count <= kMaxChannels, name, " must have at most ", kMaxChannels, " values, got ", count);
}

void check_bounds(at::ArrayRef<double> epsilon, at::ArrayRef<double> low, at::ArrayRef<double> high, int64_t channels) {
  check_count("epsilon", epsilon, channels);
  check_count("low", low, channels);
  check_count("high", high, channels);
  for (const double value : epsilon) {
    TORCH_CHECK_VALUE(value >= 0 && std::isfinite(value), "epsilon must be finite and at least 0, got ", value);
  }
  for (size_t channel = 0; channel < std::max(low.size(), high.size()); ++channel) {
    const double smallest = low[channel % low.size()], largest = high[channel % high.size()];
    TORCH_CHECK_VALUE(smallest <= largest, "low must be at most high, got low ", smallest, " and high ", largest);
  }
}

}  // namespace

void check_patch(int64_t height, int64_t width, int64_t patch_size, int64_t num_masks) {
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  TORCH_CHECK_VALUE(
      height >= 1 && width >= 1 && height <= kLargest && width <= kLargest,
      "image_size must be at least 1 in both directions, got (", height, ", ", width, ")");
  TORCH_CHECK_VALUE(
      patch_size >= 1 && patch_size <= std::min(height, width), "patch_size must be in [1, ", std::min(height, width),
      "], got ", patch_size);
  TORCH_CHECK_VALUE(
      num_masks >= 1 && num_masks <= kMaxMasks, "num_masks must be in [1, ", kMaxMasks, "], got ", num_masks);
}

void check_sample_ids(const at::Tensor& sample_ids) {
  TORCH_CHECK_TYPE(
      sample_ids.scalar_type() == at::kLong, "sample_ids must be int64, got ", dtype_name(sample_ids.scalar_type()));
  TORCH_CHECK_VALUE(sample_ids.dim() == 1, "sample_ids must have 1 dimension, got ", sample_ids.dim());
}

void check_high(int64_t high) {
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  TORCH_CHECK_VALUE(high >= 1 && high <= kLargest, "high must be in [1, ", kLargest, "], got ", high);
}

void check_perturb(
    const at::Tensor& images, const at::Tensor& grad, at::ArrayRef<double> epsilon, int64_t patch_size,
    int64_t num_masks, const std::optional<at::Tensor>& sample_ids, at::ArrayRef<double> low,
    at::ArrayRef<double> high) {
  check_float("images", images, 4, "(N, C, H, W)");
  check_like("grad", grad, "images", images);
  TORCH_CHECK_VALUE(
      grad.sizes() == images.sizes(), "grad must have the shape of images ", images.sizes(), ", got ", grad.sizes());
  check_device("grad", grad, "images", images);
  TORCH_CHECK_VALUE(images.size(1) >= 1, "images must have at least 1 channel, got 0");
  check_patch(images.size(2), images.size(3), patch_size, num_masks);
  TORCH_CHECK_VALUE(
      images.size(1) <= std::numeric_limits<int32_t>::max() / (images.size(2) * images.size(3)),
      "images must have fewer than 2^31 values each, got ", images.sizes());
  if (sample_ids) {
    check_sample_ids(*sample_ids);
    TORCH_CHECK_VALUE(
        sample_ids->size(0) == images.size(0), "sample_ids must have length ", images.size(0), ", one per image, got ",
        sample_ids->size(0));
    check_device("sample_ids", *sample_ids, "images", images);
  }
  check_bounds(epsilon, low, high, images.size(1));
}

void check_kl_divergence(const at::Tensor& logits, const at::Tensor& perturbed_logits) {
  check_float("logits", logits, 2, "(N, classes)");
  check_like("perturbed_logits", perturbed_logits, "logits", logits);
  TORCH_CHECK_VALUE(
      perturbed_logits.dim() == 3, "perturbed_logits must have 3 dimensions (num_masks, N, classes), got ",
      perturbed_logits.dim());
  TORCH_CHECK_VALUE(
      perturbed_logits.sizes().slice(1) == logits.sizes(), "perturbed_logits must have shape (num_masks, ",
      logits.size(0), ", ", logits.size(1), ") to match logits, got ", perturbed_logits.sizes());
  check_device("perturbed_logits", perturbed_logits, "logits", logits);
  TORCH_CHECK_VALUE(logits.size(1) >= 1, "logits must have at least 1 class, got 0");
}

void check_halves(
    const std::optional<at::Tensor>& logits, const std::optional<at::Tensor>& perturbed_logits,
    const std::optional<at::Tensor>& images, const std::optional<at::Tensor>& grad) {
  TORCH_CHECK_VALUE(
      logits.has_value() == perturbed_logits.has_value(),
      "logits and perturbed_logits must be given together or both be None");
  TORCH_CHECK_VALUE(images.has_value() == grad.has_value(), "images and grad must be given together or both be None");
  TORCH_CHECK_VALUE(logits || images, "images and logits must not both be None: score_step has nothing to do");
  if (logits && images) {
    check_device("images", *images, "logits", *logits);
  }
}

}  // namespace advrbd
