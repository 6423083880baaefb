// dpa1_fast.h from the build of the engine that suits this processor; the builds lie beside the plugin.
#pragma once

#include <dlfcn.h>

#include <stdexcept>
#include <string>

#include "dpa1_fast.h"

namespace dpa1_lammps {

struct Core {
  decltype(&dpa1_fast_version) version;
  decltype(&dpa1_fast_error) error;
  decltype(&dpa1_fast_load) load;
  decltype(&dpa1_fast_free) free;
  decltype(&dpa1_fast_describe) describe;
  decltype(&dpa1_fast_type_name) type_name;
  decltype(&dpa1_fast_has_type) has_type;
  decltype(&dpa1_fast_evaluate) evaluate;
  std::string build;

  /// Loaded at the first call, for the whole process.
  static const Core& get() {
    static const Core core;
    return core;
  }

 private:
  Core() {
    const std::string folder = own_folder();
    std::string tried;
    for (const char* name : {"avx512bf16", "avx512", "avx2", "baseline"}) {
      if (!usable(name)) continue;
      const std::string path = folder + "/libdpa1_fast_" + name + ".so";
      void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (!library) {
        tried += std::string(tried.empty() ? "" : "; ") + dlerror();
        continue;
      }
      build = name;
      bind(library, "dpa1_fast_version", version), bind(library, "dpa1_fast_error", error);
      bind(library, "dpa1_fast_load", load), bind(library, "dpa1_fast_free", free);
      bind(library, "dpa1_fast_describe", describe), bind(library, "dpa1_fast_type_name", type_name);
      bind(library, "dpa1_fast_has_type", has_type), bind(library, "dpa1_fast_evaluate", evaluate);
      if (version() != DPA1_FAST_VERSION)
        throw std::runtime_error(path + " is of another version than this plugin; run `dpa1-fast lammps build` again");
      return;
    }
    throw std::runtime_error("no build of dpa1-fast's engine can be loaded (" + tried + "); run `dpa1-fast lammps build` again");
  }

  static std::string own_folder() {
    Dl_info info;
    if (!dladdr(reinterpret_cast<void*>(&Core::get), &info) || !info.dli_fname)
      throw std::runtime_error("the plugin does not know where it lies");
    const std::string path = info.dli_fname;
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, slash);
  }

  static bool usable(const std::string& name) {
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
    if (name == "avx512bf16") return avx512 && __builtin_cpu_supports("avx512bf16");
    if (name == "avx512") return avx512;
    if (name == "avx2") return avx2;
#endif
    return name == "baseline";
  }

  template <class F>
  static void bind(void* library, const char* name, F& into) {
    into = reinterpret_cast<F>(dlsym(library, name));
    if (!into) throw std::runtime_error(std::string("the engine lacks ") + name + "; run `dpa1-fast lammps build` again");
  }
};

}  // namespace dpa1_lammps
