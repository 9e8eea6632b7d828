// The emulated launches for Python's ctypes (emulation.py). Each function returns what went wrong, or null.
#include <exception>
#include <string>

#include "cuda/launch.h"
#include "emulator.h"

namespace {

using namespace advrbd;

struct PerturbArguments {
  int32_t dtype, num_masks, patch_size, channels;
  int32_t planes, rows, columns, interleaved;
  int64_t samples;
  uint64_t seed;
  const void* images;
  const void* grad;
  void* perturbed;
  const int64_t* sample_ids;
  const float* bounds;  // epsilon, low, high of each channel
};

struct KlArguments {
  int64_t dtype, rows, num_masks, classes;
  const void* logits;
  const void* perturbed_logits;
  float* divergence;
};

PerturbTask task_of(const PerturbArguments& given) {
  PerturbTask task;
  task.dtype = static_cast<Dtype>(given.dtype);
  task.images = given.images;
  task.grad = given.grad;
  task.perturbed = given.perturbed;
  task.sample_ids = given.sample_ids;
  task.samples = given.samples;
  task.num_masks = given.num_masks;
  task.patch_size = given.patch_size;
  task.seed = given.seed;
  task.layout = {given.planes, given.rows, given.columns, given.interleaved};
  task.grid = {given.rows - given.patch_size + 1, given.columns - given.patch_size + 1};
  task.bounds.channels = given.channels;
  for (int32_t channel = 0; channel < given.channels; ++channel) {
    const float* bounds = given.bounds + 3 * channel;
    task.bounds.values[channel] = {bounds[0], bounds[1], bounds[2]};
  }
  return task;
}

KlTask task_of(const KlArguments& given) {
  return {
      static_cast<Dtype>(given.dtype),
      given.logits,
      given.perturbed_logits,
      given.divergence,
      given.rows,
      given.num_masks,
      given.classes};
}

template <typename... Task>
const char* launch(const Task&... tasks) {
  static std::string failure;
  try {
    cuda::launch(tasks..., nullptr);
    return nullptr;
  } catch (const std::exception& error) {
    failure = error.what();
    return failure.c_str();
  }
}

}  // namespace

// The library of launches by NVRTC hides all but these.
#pragma GCC visibility push(default)
extern "C" {

const char* emulate_perturb(const PerturbArguments& perturb) {
  return launch(task_of(perturb));
}

const char* emulate_kl_divergence(const KlArguments& kl) {
  return launch(task_of(kl));
}

const char* emulate_score_step(const KlArguments& kl, const PerturbArguments& perturb) {
  return launch(task_of(kl), task_of(perturb));
}

const char* emulate_patch_origins(
    const int64_t* sample_ids, int64_t* origins, int64_t samples, int32_t num_masks, uint64_t seed, int32_t rows,
    int32_t columns) {
  return launch(OriginsTask{sample_ids, origins, samples, num_masks, seed, {rows, columns}});
}

const char* emulate_philox_uniform(
    const int64_t* sample_ids, int64_t* values, int64_t samples, int32_t high, uint64_t seed) {
  return launch(UniformTask{sample_ids, values, samples, high, seed});
}

void emulate_limit_grid(unsigned int blocks) {
  emulator::limit_grid(blocks);
}

void emulate_counts(int64_t* counts) {
  const emulator::Counts done = emulator::counts();
  counts[0] = done.launches;
  counts[1] = done.shuffles;
  counts[2] = done.barriers;
}

}  // extern "C"
#pragma GCC visibility pop
