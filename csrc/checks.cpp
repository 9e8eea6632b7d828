#include "checks.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tasks.h"

namespace advrbd {
namespace {

const char* dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Half:
      return "float16";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Byte:
      return "uint8";
    default:
      return torch::headeronly::toString(dtype);
  }
}

// What a message shows of a tensor, written only where there is a message.

struct DtypeOf {
  const Tensor& tensor;

  friend std::ostream& operator<<(std::ostream& out, DtypeOf shown) {
    return out << dtype_name(shown.tensor.scalar_type());
  }
};

struct DeviceOf {
  const Tensor& tensor;

  friend std::ostream& operator<<(std::ostream& out, DeviceOf shown) {
    const auto device = shown.tensor.device();
    switch (device.type()) {
      case torch::headeronly::DeviceType::CPU:
        return out << "cpu";
      case torch::headeronly::DeviceType::CUDA:
        return out << "cuda:" << device.index();
      case torch::headeronly::DeviceType::Meta:
        return out << "meta";
      default:
        return out << "another device";
    }
  }
};

struct ShapeOf {
  const Tensor& tensor;

  friend std::ostream& operator<<(std::ostream& out, ShapeOf shown) {
    const char* before = "[";
    for (const int64_t size : shown.tensor.sizes()) {
      out << before << size;
      before = ", ";
    }
    return out << (shown.tensor.dim() == 0 ? "[]" : "]");
  }
};

bool same_shape(const Tensor& one, const Tensor& other) {
  const Sizes sizes = one.sizes(), others = other.sizes();
  return std::equal(sizes.begin(), sizes.end(), others.begin(), others.end());
}

void check_float(const char* name, const Tensor& tensor, int64_t dimensions, const char* meaning) {
  const auto dtype = tensor.scalar_type();
  require(
      dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half, name,
      " must be float32, bfloat16 or float16, got ", DtypeOf{tensor});
  require(tensor.dim() == dimensions, name, " must have ", dimensions, " dimensions ", meaning, ", got ", tensor.dim());
}

void check_like(const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) {
  require(
      dtype_code(tensor) == dtype_code(other), name, " must have the dtype of ", other_name, " (", DtypeOf{other},
      "), got ", DtypeOf{tensor});
}

void check_device(const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) {
  require(
      tensor.device() == other.device(), name, " must be on the device of ", other_name, " (", DeviceOf{other},
      "), got ", DeviceOf{tensor});
}

void check_count(const char* name, Numbers values, int64_t channels) {
  const auto count = static_cast<int64_t>(values.size());
  require(
      count == 1 || count == channels, name, " must be a number or one per channel (", channels, "), got ", count,
      " values");
  require(count <= kMaxChannels, name, " must have at most ", kMaxChannels, " values, got ", count);
}

void check_bounds(Numbers epsilon, Numbers low, Numbers high, int64_t channels) {
  check_count("epsilon", epsilon, channels);
  check_count("low", low, channels);
  check_count("high", high, channels);
  for (const double value : epsilon) {
    require(value >= 0 && std::isfinite(value), "epsilon must be finite and at least 0, got ", value);
  }
  for (size_t channel = 0; channel < std::max(low.size(), high.size()); ++channel) {
    const double smallest = low[channel % low.size()], largest = high[channel % high.size()];
    require(smallest <= largest, "low must be at most high, got low ", smallest, " and high ", largest);
  }
}

}  // namespace

void check_patch(int64_t height, int64_t width, int64_t patch_size, int64_t num_masks) {
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  require(
      height >= 1 && width >= 1 && height <= kLargest && width <= kLargest,
      "image_size must be at least 1 in both directions, got (", height, ", ", width, ")");
  require(
      patch_size >= 1 && patch_size <= std::min(height, width), "patch_size must be in [1, ", std::min(height, width),
      "], got ", patch_size);
  require(num_masks >= 1 && num_masks <= kMaxMasks, "num_masks must be in [1, ", kMaxMasks, "], got ", num_masks);
}

void check_sample_ids(const Tensor& sample_ids) {
  require(sample_ids.scalar_type() == ScalarType::Long, "sample_ids must be int64, got ", DtypeOf{sample_ids});
  require(sample_ids.dim() == 1, "sample_ids must have 1 dimension, got ", sample_ids.dim());
}

void check_high(int64_t high) {
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  require(high >= 1 && high <= kLargest, "high must be in [1, ", kLargest, "], got ", high);
}

void check_perturb(
    const Tensor& images, const Tensor& grad, Numbers epsilon, int64_t patch_size, int64_t num_masks,
    const std::optional<Tensor>& sample_ids, Numbers low, Numbers high) {
  check_float("images", images, 4, "(N, C, H, W)");
  check_like("grad", grad, "images", images);
  require(same_shape(grad, images), "grad must have the shape of images ", ShapeOf{images}, ", got ", ShapeOf{grad});
  check_device("grad", grad, "images", images);
  require(images.size(1) >= 1, "images must have at least 1 channel, got 0");
  check_patch(images.size(2), images.size(3), patch_size, num_masks);
  require(
      images.size(1) <= std::numeric_limits<int32_t>::max() / (images.size(2) * images.size(3)),
      "images must have fewer than 2^31 values each, got ", ShapeOf{images});
  if (sample_ids) {
    check_sample_ids(*sample_ids);
    require(
        sample_ids->size(0) == images.size(0), "sample_ids must have length ", images.size(0), ", one per image, got ",
        sample_ids->size(0));
    check_device("sample_ids", *sample_ids, "images", images);
  }
  check_bounds(epsilon, low, high, images.size(1));
}

void check_kl_divergence(const Tensor& logits, const Tensor& perturbed_logits) {
  check_float("logits", logits, 2, "(N, classes)");
  check_like("perturbed_logits", perturbed_logits, "logits", logits);
  require(
      perturbed_logits.dim() == 3, "perturbed_logits must have 3 dimensions (num_masks, N, classes), got ",
      perturbed_logits.dim());
  require(
      perturbed_logits.size(1) == logits.size(0) && perturbed_logits.size(2) == logits.size(1),
      "perturbed_logits must have shape (num_masks, ", logits.size(0), ", ", logits.size(1), ") to match logits, got ",
      ShapeOf{perturbed_logits});
  check_device("perturbed_logits", perturbed_logits, "logits", logits);
  require(logits.size(1) >= 1, "logits must have at least 1 class, got 0");
}

void check_halves(
    const std::optional<Tensor>& logits, const std::optional<Tensor>& perturbed_logits,
    const std::optional<Tensor>& images, const std::optional<Tensor>& grad) {
  require(
      logits.has_value() == perturbed_logits.has_value(),
      "logits and perturbed_logits must be given together or both be None");
  require(images.has_value() == grad.has_value(), "images and grad must be given together or both be None");
  require(logits || images, "images and logits must not both be None: score_step has nothing to do");
  if (logits && images) {
    check_device("images", *images, "logits", *logits);
  }
}

}  // namespace advrbd
