// The masked sign step of a range of samples. Outside the patches a perturbed image is a copy, so the gradient is read
// and arithmetic is done inside the patches alone.
#pragma once

#include "../tasks.h"
#include "kernels.h"
#include "scalars.h"

namespace advrbd::cpu::ADVRBD_CAPABILITY {

template <typename Scalar>
struct Perturb {
  ADVRBD_INLINE static void run(const PerturbTask& task, const RowBounds* row_bounds, int64_t begin, int64_t end) {
    const ImageLayout layout = task.layout;
    const int64_t image_values = layout.values();
    const auto* images = static_cast<const Scalar*>(task.images);
    const auto* grads = static_cast<const Scalar*>(task.grad);
    auto* perturbed = static_cast<Scalar*>(task.perturbed);
    for (int64_t sample = begin; sample < end; ++sample) {
      const int64_t sample_id = sample_id_of(task, sample);
      const Scalar* image = images + sample * image_values;
      const Scalar* grad = grads + sample * image_values;
      for (int32_t mask = 0; mask < task.num_masks; ++mask) {
        Scalar* output = perturbed + (mask * task.samples + sample) * image_values;
        std::memcpy(output, image, image_values * sizeof(Scalar));
        const Origin origin = patch_origin(task.seed, sample_id, static_cast<uint32_t>(mask), task.grid);
        step_patch(task, row_bounds, origin, image, grad, output);
      }
    }
  }

 private:
  ADVRBD_INLINE static void step_patch(
      const PerturbTask& task, const RowBounds* row_bounds, Origin origin, const Scalar* image, const Scalar* grad,
      Scalar* output) {
    const ImageLayout layout = task.layout;
    const int64_t row_values = layout.row_values();
    const int64_t patch_row_values = int64_t{task.patch_size} * layout.interleaved;
    for (int32_t plane = 0; plane < layout.planes; ++plane) {
      const RowBounds bounds = row_bounds[plane];
      for (int32_t row = origin.row; row < origin.row + task.patch_size; ++row) {
        const int64_t start =
            (int64_t{plane} * layout.rows + row) * row_values + int64_t{origin.column} * layout.interleaved;
        step_row(bounds, image + start, grad + start, output + start, patch_row_values);
      }
    }
  }

  // Rows of a patch are short, so eight values at a time.
  ADVRBD_INLINE static void step_row(
      RowBounds bounds, const Scalar* __restrict image, const Scalar* __restrict grad, Scalar* __restrict output,
      int64_t values) {
    constexpr int64_t kTogether = 8;
    int64_t i = 0;
    for (; i + kTogether <= values; i += kTogether) {
#pragma omp simd
      for (int64_t j = i; j < i + kTogether; ++j) {
        output[j] = step(bounds, j, image[j], grad[j]);
      }
    }
    for (; i < values; ++i) {
      output[i] = step(bounds, i, image[i], grad[i]);
    }
  }

  ADVRBD_INLINE static Scalar step(RowBounds bounds, int64_t i, Scalar pixel, Scalar grad) {
    return Scalar::store(sign_step(pixel.load(), grad.load(), bounds.epsilon[i], bounds.low[i], bounds.high[i]));
  }
};

}  // namespace advrbd::cpu::ADVRBD_CAPABILITY
