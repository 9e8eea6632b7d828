#pragma once

#include <cstdint>

namespace emulator {

struct Counts {
  int64_t launches = 0, shuffles = 0, barriers = 0;
};
Counts counts();

// At most this many blocks in a grid, so that kernels stride over the rest; 0: no limit.
void limit_grid(unsigned int blocks);

}  // namespace emulator
