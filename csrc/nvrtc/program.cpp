#include "program.h"

#include <dlfcn.h>

#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>

namespace advrbd::nvrtc {
namespace {

// What is needed of the driver, whose functions have kept these signatures since CUDA 4 and 7.
using Result = int;
using Function = struct FunctionOpaque*;
using Module = struct ModuleOpaque*;
using Context = struct ContextOpaque*;

struct Driver {
  Result (*get_context)(Context*);
  Result (*set_context)(Context);
  Result (*retain_context)(Context*, int device);
  Result (*load)(Module*, const void* image);
  Result (*find)(Function*, Module, const char* name);
  Result (*launch)(
      Function, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int,
      void* stream, void** parameters, void** extra);
  Result (*error_name)(Result, const char**);

  static const Driver& get() {
    static const Driver driver;
    return driver;
  }

 private:
  Driver() {
    void* const library = dlopen("libcuda.so.1", RTLD_NOW);
    if (library == nullptr) {
      throw std::runtime_error(std::string("CUDA's driver does not load: ") + dlerror());
    }
    find_in(library, "cuCtxGetCurrent", get_context);
    find_in(library, "cuCtxSetCurrent", set_context);
    find_in(library, "cuDevicePrimaryCtxRetain", retain_context);
    find_in(library, "cuModuleLoadData", load);
    find_in(library, "cuModuleGetFunction", find);
    find_in(library, "cuLaunchKernel", launch);
    find_in(library, "cuGetErrorName", error_name);
  }

  template <typename Pointer>
  static void find_in(void* library, const char* name, Pointer& pointer) {
    pointer = reinterpret_cast<Pointer>(dlsym(library, name));
    if (pointer == nullptr) {
      throw std::runtime_error(std::string("CUDA's driver has no ") + name);
    }
  }
};

void check(Result result, const std::string& what) {
  if (result != 0) {
    const char* name = nullptr;
    Driver::get().error_name(result, &name);
    throw std::runtime_error(what + ": " + (name != nullptr ? name : "an unknown CUDA error"));
  }
}

// Python's answer (ops/nvrtc.py: _Answer): the code, and the kernel's name in it; or, without code, what went wrong. All
// of it stays where it is until this thread asks again.
struct Compiled {
  const void* code;
  const char* name;
  const char* failure;
};
using Compiler = void (*)(const char* function, const char* expression, int device, Compiled* compiled);

std::mutex mutex;
Compiler compiler = nullptr;
thread_local int current_device = 0;

std::string expression_of(const cuda::KernelName& name) {
  std::string text = std::string("advrbd::cuda::") + name.function;
  std::string arguments;
  for (const char* type : name.types) {
    if (type != nullptr) {
      arguments += (arguments.empty() ? "" : ", ") + std::string(type);
    }
  }
  if (name.values != 0) {
    arguments += ", " + std::to_string(name.values) + (name.regular ? ", true" : ", false");
  }
  return arguments.empty() ? text : text + "<" + arguments + ">";
}

// The driver works on the thread's context, which a thread that called nothing of CUDA's runtime does not have yet.
void need_context() {
  Context context = nullptr;
  check(Driver::get().get_context(&context), "asking for the context");
  if (context == nullptr) {
    check(Driver::get().retain_context(&context, current_device), "taking the GPU's context");
    check(Driver::get().set_context(context), "setting the context");
  }
}

Function compile(const cuda::KernelName& name) {
  const std::string expression = expression_of(name);
  Compiled compiled{};
  if (compiler != nullptr) {
    compiler(name.function, expression.c_str(), current_device, &compiled);
  }
  if (compiled.code == nullptr) {
    throw std::runtime_error(
        expression + " is not compiled: " + (compiled.failure != nullptr ? compiled.failure : "no compiler is set"));
  }
  Module module = nullptr;
  Function function = nullptr;
  check(Driver::get().load(&module, compiled.code), "loading " + expression);
  check(Driver::get().find(&function, module, compiled.name), "finding " + expression);
  return function;
}

Function function_of(const cuda::KernelName& name) {
  using Key = std::tuple<int, const char*, const char*, const char*, int, bool>;
  static std::map<Key, Function> functions;
  const Key key{current_device, name.function, name.types[0], name.types[1], name.values, name.regular};
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = functions.find(key);
    if (found != functions.end()) {
      return found->second;
    }
  }
  const Function made = compile(name);  // without the lock, since it waits for Python's
  const std::lock_guard<std::mutex> lock(mutex);
  return functions.emplace(key, made).first->second;
}

}  // namespace

void use_device(int device) {
  current_device = device;
}

void launch(
    const cuda::KernelName& name, unsigned int blocks, unsigned int threads, size_t shared_bytes, void* stream,
    void** parameters) {
  need_context();
  const Function function = function_of(name);
  const auto shared = static_cast<unsigned int>(shared_bytes);
  check(
      Driver::get().launch(function, blocks, 1, 1, threads, 1, 1, shared, stream, parameters, nullptr),
      "launching " + expression_of(name));
}

}  // namespace advrbd::nvrtc

extern "C" __attribute__((visibility("default"))) void advrbd_nvrtc_set_compiler(advrbd::nvrtc::Compiler compiler) {
  advrbd::nvrtc::compiler = compiler;
}
