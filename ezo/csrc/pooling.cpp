// Where numbers of images go: maxima of blocks, there and back, and from one order to another.
#include <algorithm>
#include <climits>
#include <cstdlib>
#include <vector>

#include "integers.hpp"
#include "pool.hpp"

namespace ezo {
namespace {

constexpr double kTransposeNanoseconds = 0.5;  // of a number on one core, roughly

}  // namespace

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

std::uint32_t average(const Images& x, int channels, int high, int wide, std::int32_t* out) {
  const std::size_t row = static_cast<std::size_t>(x.width) * channels;
  const std::int64_t count = std::int64_t{high} * wide;
  std::vector<std::int32_t> sum(channels);
  std::int64_t largest = 0;
  for (int image = 0; image < x.images; ++image) {
    const std::int8_t* data = x.data + image * x.height * row;
    for (int i = 0; i + high <= x.height; i += high) {
      for (int j = 0; j + wide <= x.width; j += wide) {
        std::fill(sum.begin(), sum.end(), 0);
        for (int k = 0; k < high; ++k) {
          const std::int8_t* from = data + (i + k) * row + static_cast<std::size_t>(j) * channels;
          for (int l = 0; l < wide; ++l, from += channels) {
            for (int c = 0; c < channels; ++c) sum[c] += from[c];
          }
        }
        for (int c = 0; c < channels; ++c) {
          const std::int64_t all = std::abs(std::int64_t{sum[c]}) << 8;
          const std::int64_t mean = (2 * all + count) / (2 * count);
          largest = std::max(largest, mean);
          *out++ = static_cast<std::int32_t>(sum[c] < 0 ? -mean : mean);
        }
      }
    }
  }
  return static_cast<std::uint32_t>(largest);
}

void transpose(const std::int8_t* x, std::int8_t* out, std::size_t n, std::size_t rows,
               std::size_t columns, int threads) {
  const std::size_t each = rows * columns;
  const double work = static_cast<double>(n * each) * kTransposeNanoseconds;
  const int workers = Pool::workers(threads, work, static_cast<int>(std::min<std::size_t>(n, INT_MAX)));
  Pool::instance().run(workers, Pool::Then::spin, [&](int t) {
    for (std::size_t i = n * t / workers; i < n * (t + 1) / workers; ++i) {
      const std::int8_t* from = x + i * each;
      std::int8_t* to = out + i * each;
      for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t c = 0; c < columns; ++c) to[c * rows + r] = *from++;
      }
    }
  });
}

}  // namespace ezo
