// Where numbers of images go: maxima of blocks, there and back, and one dimension for all.
#include <algorithm>

#include "integers.hpp"

namespace ezo {

void max_pool(const std::int8_t* x, std::int8_t* y, std::uint8_t* where, int n, int height,
              int width, int channels, int size) {
  const std::size_t row = static_cast<std::size_t>(width) * channels;
  for (int image = 0; image < n; ++image, x += height * row) {
    for (int i = 0; i < height / size; ++i) {
      for (int j = 0; j < width / size; ++j, y += channels, where += channels) {
        const std::int8_t* block = x + i * size * row + j * size * channels;
        std::copy_n(block, channels, y);
        std::fill_n(where, channels, 0);
        for (int k = 1; k < size * size; ++k) {
          const std::int8_t* other = block + k / size * row + k % size * channels;
          for (int c = 0; c < channels; ++c) {
            where[c] = other[c] > y[c] ? static_cast<std::uint8_t>(k) : where[c];
            y[c] = std::max(y[c], other[c]);
          }
        }
      }
    }
  }
}

void max_pool_backward(const std::int8_t* grad_output, const std::uint8_t* where,
                       std::int8_t* grad_input, int n, int height, int width, int channels,
                       int size) {
  const std::size_t row = static_cast<std::size_t>(width) * channels;
  std::fill_n(grad_input, n * height * row, 0);
  for (int image = 0; image < n; ++image, grad_input += height * row) {
    for (int i = 0; i < height / size; ++i) {
      for (int j = 0; j < width / size; ++j) {
        std::int8_t* block = grad_input + i * size * row + j * size * channels;
        for (int c = 0; c < channels; ++c, ++grad_output, ++where) {
          block[*where / size * row + *where % size * channels + c] = *grad_output;
        }
      }
    }
  }
}

void flatten(const std::int8_t* x, std::int8_t* out, std::size_t n, std::size_t positions,
             std::size_t channels) {
  for (std::size_t i = 0; i < n; ++i, out += positions * channels) {
    for (std::size_t p = 0; p < positions; ++p) {
      for (std::size_t c = 0; c < channels; ++c) out[c * positions + p] = *x++;
    }
  }
}

}  // namespace ezo
