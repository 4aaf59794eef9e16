// Gradients of layers with weights, and errors that each belong to one point.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "integers.hpp"

namespace ezo {

template <class Sum>
void linear_gradient(const std::int8_t* grad_output, const std::int32_t* where,
                     const std::int8_t* x, Sum* gradient, Sum* bias_gradient, std::size_t n,
                     std::size_t points, std::size_t outputs, std::size_t inputs) {
  std::fill_n(gradient, outputs * inputs, 0);
  if (bias_gradient != nullptr) std::fill_n(bias_gradient, outputs, 0);
  for (std::size_t i = 0; i < n; ++i, grad_output += outputs, x += points * inputs) {
    for (std::size_t o = 0; o < outputs; ++o) {
      const std::int32_t e = grad_output[o];
      if (e == 0) continue;
      const std::int8_t* from = where == nullptr ? x : x + where[i * outputs + o] * inputs;
      Sum* row = gradient + o * inputs;
      for (std::size_t j = 0; j < inputs; ++j) row[j] += e * from[j];
      if (bias_gradient != nullptr) bias_gradient[o] += e;
    }
  }
}

std::uint32_t error_at_points(const ProductKernels& kernels, const std::int8_t* grad_output,
                              const std::int32_t* where, const std::int8_t* weight,
                              std::int8_t* grad_input, std::size_t n, std::size_t points,
                              std::size_t outputs, std::size_t inputs, int shift) {
  std::vector<std::int32_t> acc(inputs), first(points), next(outputs);  // outputs by their point
  std::int32_t largest = 0;
  std::fill_n(grad_input, n * points * inputs, 0);
  for (std::size_t i = 0; i < n; ++i, grad_output += outputs, where += outputs) {
    std::fill(first.begin(), first.end(), -1);
    for (std::size_t o = 0; o < outputs; ++o) {
      if (grad_output[o] == 0) continue;
      next[o] = first[where[o]];
      first[where[o]] = static_cast<std::int32_t>(o);
    }
    for (std::size_t p = 0; p < points; ++p, grad_input += inputs) {
      if (first[p] < 0) continue;
      std::fill(acc.begin(), acc.end(), 0);
      for (std::int32_t o = first[p]; o >= 0; o = next[o]) {
        const std::int32_t e = grad_output[o];
        const std::int8_t* w = weight + o * inputs;
        for (std::size_t j = 0; j < inputs; ++j) acc[j] += e * w[j];
      }
      for (std::int32_t a : acc) largest = std::max(largest, std::abs(a));
      kernels.requantize(acc.data(), grad_input, inputs, shift);
    }
  }
  return static_cast<std::uint32_t>(largest);
}

template <class Sum>
void convolution_gradient(const std::int8_t* grad_output, const std::int8_t* x, Sum* gradient,
                          Sum* bias_gradient, int n, int height, int width, int channels,
                          int outputs, int kernel, int padding) {
  const int rows = height + 2 * padding - kernel + 1, columns = width + 2 * padding - kernel + 1;
  const std::size_t wide = static_cast<std::size_t>(width + 2 * padding) * channels;
  const std::size_t inner = static_cast<std::size_t>(width) * channels;
  const std::size_t of_row = static_cast<std::size_t>(kernel) * channels;  // of the kernel
  std::vector<std::int8_t> padded((height + 2 * padding) * wide, 0);
  std::fill_n(gradient, outputs * kernel * of_row, 0);
  if (bias_gradient != nullptr) std::fill_n(bias_gradient, outputs, 0);
  for (int image = 0; image < n; ++image) {
    for (int y = 0; y < height; ++y, x += inner) {
      std::copy_n(x, inner, padded.data() + (y + padding) * wide + padding * channels);
    }
    for (int y = 0; y < rows; ++y) {
      for (int p = 0; p < columns; ++p) {
        for (int o = 0; o < outputs; ++o) {
          const std::int32_t e = *grad_output++;
          if (e == 0) continue;  // as most are, below a ReLU and a maximum
          if (bias_gradient != nullptr) bias_gradient[o] += e;
          Sum* to = gradient + o * kernel * of_row;
          const std::int8_t* from = padded.data() + y * wide + p * channels;
          for (int k = 0; k < kernel; ++k, to += of_row, from += wide) {
            for (std::size_t i = 0; i < of_row; ++i) to[i] += e * from[i];
          }
        }
      }
    }
  }
}

#define EZO_IN(Sum)                                                                             \
  template void linear_gradient(const std::int8_t*, const std::int32_t*, const std::int8_t*,   \
                                Sum*, Sum*, std::size_t, std::size_t, std::size_t, std::size_t); \
  template void convolution_gradient(const std::int8_t*, const std::int8_t*, Sum*, Sum*, int,  \
                                     int, int, int, int, int, int);
EZO_IN(std::int32_t)
EZO_IN(std::int64_t)
#undef EZO_IN

}  // namespace ezo
