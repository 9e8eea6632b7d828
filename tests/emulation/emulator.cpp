#include "device.h"

#include <algorithm>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <vector>

#include "emulator.h"

dim3 threadIdx, blockIdx, gridDim;

namespace advrbd::cuda {
extern int4 shared_memory[];
int4 shared_memory[4096];  // 64 KiB: what a launch may ask for is less, and the rest must stay as it is
}  // namespace advrbd::cuda

namespace emulator {
namespace {

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 1 << 16;
constexpr size_t kMostSharedBytes = 48 << 10;  // without an opt-in
constexpr unsigned char kUntouched = 0xEE;

enum class State { running, at_shuffle, at_barrier, done };

struct Fiber {
  char* stack;
  void* stack_pointer;
  unsigned int thread;
  State state;
  uint32_t value, mask;  // of a shuffle
  int lane_xor;
};

std::vector<Fiber> fibers;
Fiber* current;
void* scheduler;  // its stack pointer
const std::function<void()>* body;
std::mt19937 order_of_threads(1);
unsigned int most_blocks;
Counts counts_;

[[noreturn]] void fail(const char* what) {
  throw std::runtime_error(what);
}

extern "C" void emulator_switch(void** from, void* to);
asm(R"(
.text
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");

void leave(State state) {
  current->state = state;
  emulator_switch(&current->stack_pointer, scheduler);
}

void enter() {
  (*body)();
  leave(State::done);
  std::abort();  // nobody comes back
}

void start(Fiber& fiber, unsigned int thread) {
  constexpr int kSavedRegisters = 6;
  void** top = reinterpret_cast<void**>(fiber.stack + kStackBytes - 64);
  *--top = nullptr;  // where enter() would return to; it also aligns the stack
  *--top = reinterpret_cast<void*>(&enter);
  for (int i = 0; i < kSavedRegisters; ++i) {
    *--top = nullptr;
  }
  fiber.stack_pointer = top;
  fiber.thread = thread;
  fiber.state = State::running;
}

void run_to_next_stop(Fiber& fiber) {
  current = &fiber;
  threadIdx.x = fiber.thread;
  emulator_switch(&scheduler, fiber.stack_pointer);
}

// All lanes of a warp are at the same shuffle: each gets another's value.
void shuffle(Fiber* warp) {
  uint32_t given[kWarp];
  for (int lane = 0; lane < kWarp; ++lane) {
    const Fiber& fiber = warp[lane];
    if (fiber.state != State::at_shuffle || fiber.mask != 0xFFFFFFFFu || fiber.lane_xor != warp->lane_xor) {
      fail("a shuffle that not all lanes of its warp reached alike");
    }
    given[lane] = warp[lane ^ fiber.lane_xor].value;
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    warp[lane].value = given[lane];
    warp[lane].state = State::running;
  }
  ++counts_.shuffles;
}

void run_block(unsigned int threads) {
  std::vector<int> order(threads);
  for (unsigned int thread = 0; thread < threads; ++thread) {
    order[thread] = static_cast<int>(thread);
    start(fibers[thread], thread);
  }
  const auto all = [&](State state) {
    return std::all_of(
        fibers.begin(), fibers.begin() + threads, [=](const Fiber& fiber) { return fiber.state == state; });
  };
  while (!all(State::done)) {
    std::shuffle(order.begin(), order.end(), order_of_threads);
    bool advanced = false;
    for (const int thread : order) {
      if (fibers[thread].state == State::running) {
        run_to_next_stop(fibers[thread]);
        advanced = true;
      }
    }
    for (unsigned int first = 0; first < threads; first += kWarp) {
      const auto warp = fibers.begin() + first;
      if (std::any_of(warp, warp + kWarp, [](const Fiber& fiber) { return fiber.state == State::at_shuffle; })) {
        shuffle(&*warp);
        advanced = true;
      }
    }
    if (advanced) {
      continue;
    }
    if (!all(State::at_barrier)) {
      fail("a barrier that not all threads of the block reached");
    }
    for (unsigned int thread = 0; thread < threads; ++thread) {
      fibers[thread].state = State::running;
    }
    ++counts_.barriers;
  }
}

}  // namespace

void run(unsigned int blocks, unsigned int threads, size_t shared_bytes, const std::function<void()>& thread) {
  if (blocks == 0 || blocks > 0x7FFFFFFFu || threads % kWarp != 0 || threads > 1024) {
    fail("a launch that a GPU would refuse");
  }
  if (shared_bytes > kMostSharedBytes) {
    fail("more shared memory than a launch may ask for");
  }
  while (fibers.size() < threads) {
    fibers.push_back({static_cast<char*>(std::aligned_alloc(64, kStackBytes))});
  }
  body = &thread;
  gridDim.x = most_blocks != 0 ? std::min(blocks, most_blocks) : blocks;
  auto* const shared = reinterpret_cast<unsigned char*>(advrbd::cuda::shared_memory);
  constexpr size_t kAllShared = sizeof(advrbd::cuda::shared_memory);
  ++counts_.launches;
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
    std::memset(shared, kUntouched, kAllShared);
    run_block(threads);
    if (std::any_of(shared + shared_bytes, shared + kAllShared, [](unsigned char c) { return c != kUntouched; })) {
      fail("a write beyond the shared memory");
    }
  }
}

void wait_for_block() {
  leave(State::at_barrier);
}

uint32_t exchange(uint32_t mask, uint32_t value, int lane_xor) {
  Fiber* const fiber = current;
  fiber->mask = mask;
  fiber->value = value;
  fiber->lane_xor = lane_xor;
  leave(State::at_shuffle);
  return fiber->value;
}

void limit_grid(unsigned int blocks) {
  most_blocks = blocks;
}

Counts counts() {
  return counts_;
}

}  // namespace emulator
