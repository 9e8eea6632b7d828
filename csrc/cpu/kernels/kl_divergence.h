// The KL divergence of a range of rows of logits, as many rows at a time as a vector has lanes: a row to each lane, so that
// nothing is summed across lanes. Logits come from memory once; what belongs to the clean rows serves all masks.
#pragma once

#include "../../tasks.h"
#include "kernels.h"
#include "lanes.h"
#include "scalars.h"

namespace advrbd::cpu::ADVRBD_CAPABILITY {

// Logits of up to kLanes rows. Lanes beyond the rows repeat the last row.
template <typename Scalar>
struct Rows {
  const Scalar* logits;
  int64_t rows, classes;

  // columns[c * kLanes + lane] = logits[lane * classes + c]. Returns each row's largest, where a NaN is passed over or
  // stays: the sums find it in any case.
  ADVRBD_INLINE Lanes transpose_to(float* columns) const {
    if (classes < kLanes) {
      return transpose_few_to(columns);
    }
    Lanes largest = transpose_tile_to(columns, 0);
    for (int64_t c = kLanes; c < classes; c += kLanes) {
      // The last tile overlaps the one before it, rather than the end of the row.
      const int64_t first = c + kLanes <= classes ? c : classes - kLanes;
      largest = Larger::join(transpose_tile_to(columns, first), largest);
    }
    return largest;
  }

 private:
  ADVRBD_INLINE Lanes transpose_few_to(float* columns) const {
    const Scalar* row = logits;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      for (int64_t c = 0; c < classes; ++c) {
        columns[c * kLanes + lane] = row[c].load();
      }
      row += lane + 1 < rows ? classes : 0;
    }
    Lanes largest = load(columns);
    for (int64_t c = 1; c < classes; ++c) {
      largest = Larger::join(load(columns + c * kLanes), largest);
    }
    return largest;
  }

  ADVRBD_INLINE Lanes transpose_tile_to(float* columns, int64_t first) const {
    Lanes tile[kLanes];
    const Scalar* row = logits + first;
    for (int lane = 0; lane < kLanes; ++lane) {
      tile[lane] = load(row);
      row += lane + 1 < rows ? classes : 0;
    }
    transpose(tile);
    for (int i = 0; i < kLanes; ++i) {
      store(columns + (first + i) * kLanes, tile[i]);
    }
    for (int step = kLanes / 2; step > 0; step /= 2) {
      for (int i = 0; i < step; ++i) {
        tile[i] = Larger::join(tile[i], tile[i + step]);
      }
    }
    return tile[0];
  }
};

template <typename Scalar>
class KlDivergence {
 public:
  ADVRBD_INLINE static void run(const KlTask& task, float* scratch, int64_t begin, int64_t end) {
    const int64_t classes = task.classes;
    const auto* logits = static_cast<const Scalar*>(task.logits);
    const auto* perturbed_logits = static_cast<const Scalar*>(task.perturbed_logits);
    Clean clean{scratch, scratch + kLanes * classes, scratch + 2 * kLanes * classes, {}, {}};
    float* y = scratch + 3 * kLanes * classes;
    for (int64_t first = begin; first < end; first += kLanes) {
      const int64_t rows = end - first < kLanes ? end - first : kLanes;
      clean.read({logits + first * classes, rows, classes});
      for (int64_t mask = 0; mask < task.num_masks; ++mask) {
        const int64_t place = mask * task.rows + first;
        const Lanes divergence = divergence_from(clean, {perturbed_logits + place * classes, rows, classes}, y);
        std::memcpy(task.divergence + place, &divergence, rows * sizeof(float));
      }
    }
  }

 private:
  // Sums are taken in short runs, which are then added up: less is lost to rounding than in one long sum.
  static constexpr int64_t kRun = 32;

  ADVRBD_INLINE static int64_t end_of_run(int64_t c, int64_t classes) {
    return classes - c < kRun ? classes : c + kRun;
  }

  // Of the unperturbed rows, for all masks: logits, x = logit - largest, its exponential, and the sums.
  struct Clean {
    float* logits;
    float* x;
    float* exp_x;
    Lanes largest;
    SoftmaxSum<Lanes> p;

    ADVRBD_INLINE void read(const Rows<Scalar>& rows) {
      largest = rows.transpose_to(logits);
      p = {};
      for (int64_t c = 0; c < rows.classes;) {
        SoftmaxSum<Lanes> run;
        for (const int64_t end = end_of_run(c, rows.classes); c < end; ++c) {
          const Lanes shifted = load(logits + c * kLanes) - largest;
          const Lanes exponential = exp_of_nonpositive(shifted);
          run.add(shifted, exponential);
          store(x + c * kLanes, shifted);
          store(exp_x + c * kLanes, exponential);
        }
        p.add(run);
      }
    }
  };

  // Rows of finite logits take the quick sum: an impossible class has exp(x) = 1e-38, which is as good as 0. In
  // other rows it is not finite, and cross_term decides.
  ADVRBD_INLINE static Lanes divergence_from(const Clean& clean, const Rows<Scalar>& perturbed, float* y) {
    const Lanes largest = perturbed.transpose_to(y);
    SoftmaxSum<Lanes> q;
    Lanes cross{};
    for (int64_t c = 0; c < perturbed.classes;) {
      SoftmaxSum<Lanes> run;
      Lanes run_cross{};
      for (const int64_t end = end_of_run(c, perturbed.classes); c < end; ++c) {
        const Lanes shifted = load(y + c * kLanes) - largest;
        run.add(shifted, exp_of_nonpositive(shifted));
        run_cross += load(clean.exp_x + c * kLanes) * (load(clean.x + c * kLanes) - shifted);
      }
      q.add(run);
      cross += run_cross;
    }
    const Lanes nothing_if_finite = cross - cross;
    if (__builtin_expect(any_nan(nothing_if_finite), 0)) {
      cross = nothing_if_finite == 0.0f ? cross : careful_cross(clean, y, largest, perturbed.classes);
    }
    const auto quick = QuickKl<Lanes>::of(clean.p, q, cross);
    const auto cancelled = quick.divergence < quick.bound;
    if (any(cancelled)) {
      const auto terms = KlTerms<Lanes>::of(clean.largest, clean.p, largest, q);
      return cancelled ? divergence_by_terms(clean, terms, y, largest, perturbed.classes) : quick.divergence;
    }
    return quick.divergence;
  }

  ADVRBD_INLINE static Lanes divergence_by_terms(
      const Clean& clean, const KlTerms<Lanes>& terms, const float* y, Lanes largest, int64_t classes) {
    Lanes sum{};
    for (int64_t c = 0; c < classes;) {
      Lanes run{};
      for (const int64_t end = end_of_run(c, classes); c < end; ++c) {
        const Lanes logit = load(y + c * kLanes);
        run += terms.term(
            load(clean.logits + c * kLanes), logit, load(clean.x + c * kLanes), load(clean.exp_x + c * kLanes),
            exp_of_nonpositive(logit - largest));
      }
      sum += run;
    }
    return terms.divergence(sum);
  }

  ADVRBD_INLINE static Lanes careful_cross(const Clean& clean, const float* y, Lanes largest, int64_t classes) {
    Lanes cross{};
    for (int64_t c = 0; c < classes; ++c) {
      cross += cross_term(load(clean.x + c * kLanes), load(clean.exp_x + c * kLanes), load(y + c * kLanes) - largest);
    }
    return cross;
  }
};

}  // namespace advrbd::cpu::ADVRBD_CAPABILITY
