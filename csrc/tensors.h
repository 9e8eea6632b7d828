// Tensors by PyTorch's stable ABI alone: what is compiled here serves torch 2.10 and every later one, for any Python.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <stdexcept>

namespace advrbd {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;
using Numbers = torch::headeronly::HeaderOnlyArrayRef<double>;

// ValueError in Python. The message is put together only where it is needed.
template <typename... Part>
void require(bool condition, const Part&... parts) {
  if (__builtin_expect(!condition, 0)) {
    std::ostringstream message;
    (message << ... << parts);
    throw std::invalid_argument(message.str());
  }
}

// Whether the values fill their memory without gaps, with the last of `order`'s dimensions next to each other.
inline bool is_dense(const Tensor& tensor, std::initializer_list<int> order) {
  const Sizes sizes = tensor.sizes(), strides = tensor.strides();
  int64_t expected = 1;
  bool dense = true;
  for (auto dimension = order.end(); dimension != order.begin();) {
    const int64_t size = sizes[*--dimension];
    if (size == 0) {
      return true;
    }
    dense = dense && (size == 1 || strides[*dimension] == expected);
    expected *= size;
  }
  return dense;
}

// Uninitialised, on the device of `like`.
inline Tensor empty(
    std::initializer_list<int64_t> sizes, std::initializer_list<int64_t> strides, const Tensor& like, int32_t dtype) {
  int32_t device_type = 0, device_index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.begin(), strides.begin(), dtype, device_type, device_index, &made));
  return Tensor(made);
}

inline int32_t dtype_code(const Tensor& tensor) {
  int32_t code = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &code));
  return code;
}

}  // namespace advrbd
