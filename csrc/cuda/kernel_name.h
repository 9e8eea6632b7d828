#pragma once

namespace advrbd::cuda {

// A kernel's name with its template arguments, such as perturb_kernel<float, 4, true>.
struct KernelName {
  const char* function;
  const char* types[2] = {};
  int values = 0;  // in a vector; 0: not an argument, and neither is regular
  bool regular = false;
};

}  // namespace advrbd::cuda
