// The masked sign step of a range of samples. Outside the patches a perturbed image is a copy, so the gradient is read
// and arithmetic is done inside the patches alone.
#pragma once

#include "../../tasks.h"
#include "kernels.h"
#include "lanes.h"
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
        const Origin origin = patch_origin(task.seed, sample_id, static_cast<uint32_t>(mask), task.grid);
        prefetch_patch(task, origin, grad);
        std::memcpy(output, image, image_values * sizeof(Scalar));
        step_patch(task, row_bounds, origin, image, grad, output);
      }
    }
  }

 private:
  // Calls visit(plane, place of the first value) for each row of the patch.
  template <typename Visit>
  ADVRBD_INLINE static void for_each_row(const PerturbTask& task, Origin origin, Visit visit) {
    const ImageLayout layout = task.layout;
    for (int32_t plane = 0; plane < layout.planes; ++plane) {
      for (int32_t row = origin.row; row < origin.row + task.patch_size; ++row) {
        visit(
            plane,
            (int64_t{plane} * layout.rows + row) * layout.row_values() + int64_t{origin.column} * layout.interleaved);
      }
    }
  }

  // The rows of a patch lie too far apart for the processor to foresee them. They arrive while the image is copied.
  ADVRBD_INLINE static void prefetch_patch(const PerturbTask& task, Origin origin, const Scalar* grad) {
    constexpr int64_t kCacheLine = 64 / sizeof(Scalar);
    const int64_t patch_row_values = int64_t{task.patch_size} * task.layout.interleaved;
    for_each_row(task, origin, [&](int32_t, int64_t start) {
      for (int64_t i = 0; i < patch_row_values + kCacheLine - 1; i += kCacheLine) {
        __builtin_prefetch(grad + start + (i < patch_row_values ? i : patch_row_values - 1));
      }
    });
  }

  ADVRBD_INLINE static void step_patch(
      const PerturbTask& task, const RowBounds* row_bounds, Origin origin, const Scalar* image, const Scalar* grad,
      Scalar* output) {
    const int64_t patch_row_values = int64_t{task.patch_size} * task.layout.interleaved;
    for_each_row(task, origin, [&](int32_t plane, int64_t start) {
      step_row(row_bounds[plane], image + start, grad + start, output + start, patch_row_values);
    });
  }

  // Rows of a patch are short, so eight values at a time.
  ADVRBD_INLINE static void step_row(
      RowBounds bounds, const Scalar* __restrict image, const Scalar* __restrict grad, Scalar* __restrict output,
      int64_t values) {
    int64_t i = 0;
    for (; i + kEight <= values; i += kEight) {
      step_eight({bounds.epsilon + i, bounds.low + i, bounds.high + i}, image + i, grad + i, output + i);
    }
    for (; i < values; ++i) {
      output[i] = step(bounds, i, image[i], grad[i]);
    }
  }

  ADVRBD_INLINE static void step_eight(
      RowBounds bounds, const Scalar* __restrict image, const Scalar* __restrict grad, Scalar* __restrict output) {
    if constexpr (kConvertsEight<Scalar>) {
      const Eight stepped = sign_step(
          load_eight(image), load_eight(grad), load<kEight>(bounds.epsilon), load<kEight>(bounds.low),
          load<kEight>(bounds.high));
      store_eight(output, stepped);
    } else {
#pragma omp simd
      for (int64_t i = 0; i < kEight; ++i) {
        output[i] = step(bounds, i, image[i], grad[i]);
      }
    }
  }

  ADVRBD_INLINE static Scalar step(RowBounds bounds, int64_t i, Scalar pixel, Scalar grad) {
    return Scalar::store(sign_step(pixel.load(), grad.load(), bounds.epsilon[i], bounds.low[i], bounds.high[i]));
  }
};

}  // namespace advrbd::cpu::ADVRBD_CAPABILITY
