#include "isa.hpp"

#include <stdexcept>

#define EZO_KERNELS_OF(isa)                    \
  namespace isa {                              \
  extern const FloatKernels float_kernels;     \
  extern const SparseKernels sparse_kernels;   \
  extern const ProductKernels product_kernels; \
  extern const NodeKernels node_kernels;       \
  extern const OutputKernels output_kernels;   \
  }

namespace ezo {

EZO_KERNELS_OF(portable)
#ifdef EZO_X86
EZO_KERNELS_OF(avx2)
EZO_KERNELS_OF(avx512)
EZO_KERNELS_OF(avx512vnni)
#endif

const std::vector<Kernels>& available() {
  static const std::vector<Kernels> found = [] {
    std::vector<Kernels> all;
#define EZO_ADD(isa)                                                                       \
  all.push_back({#isa, &isa::float_kernels, &isa::sparse_kernels, &isa::product_kernels, \
                 &isa::node_kernels, &isa::output_kernels})
#ifdef EZO_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("bmi2")) {
      if (__builtin_cpu_supports("avx512vnni")) EZO_ADD(avx512vnni);
      EZO_ADD(avx512);
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2")) {
      EZO_ADD(avx2);
    }
#endif
    EZO_ADD(portable);
#undef EZO_ADD
    return all;
  }();
  return found;
}

const Kernels& pick(const std::string& isa) {
  if (isa.empty()) return available().front();
  std::string names;
  for (const Kernels& kernels : available()) {
    if (isa == kernels.isa) return kernels;
    names += names.empty() ? "" : ", ";
    names += kernels.isa;
  }
  throw std::invalid_argument("no kernels for instruction set '" + isa +
                              "' on this processor; there are " + names);
}

}  // namespace ezo
