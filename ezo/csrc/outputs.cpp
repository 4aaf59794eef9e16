// The inner loops of what nodes learn in float32.
//
// Compiled once per instruction set with EZO_ISA naming it, always with -ffp-contract=off: no
// multiply-add is fused, and each number is made of the same operations in the same order.
#include "outputs.hpp"

#include <algorithm>

namespace ezo {
namespace EZO_ISA {
namespace {

void scale(float* e, const float* scale, const std::uint8_t* on, std::size_t rows, std::size_t n) {
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t u = 0; u < n; ++u) e[i * n + u] *= scale[i];
  }
  if (on == nullptr) return;
  for (std::size_t j = 0; j < rows * n; ++j) e[j] *= static_cast<float>(on[j]);
}

void sum(const float* a, std::size_t rows, std::size_t n, float* sum) {
  std::fill_n(sum, n, 0.0f);
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < n; ++j) sum[j] += a[i * n + j];
  }
}

void subtract(float* a, const float* mean, std::size_t rows, std::size_t n) {
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < n; ++j) a[i * n + j] -= mean[j];
  }
}

float dot(const float* x, const float* mean, std::size_t n, float* room) {
  for (std::size_t k = 0; k < n; ++k) room[k] = x[k] * mean[k];
  for (; n > 1; n -= n / 2) {  // the second half onto the first; one in the middle stays
    const std::size_t half = n / 2, from = n - half;
    for (std::size_t k = 0; k < half; ++k) room[k] += room[from + k];
  }
  return n == 0 ? 0.0f : room[0];
}

}  // namespace

extern const OutputKernels output_kernels;
const OutputKernels output_kernels = {scale, sum, subtract, dot};

}  // namespace EZO_ISA
}  // namespace ezo
