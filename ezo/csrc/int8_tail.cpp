#include "int8_tail.hpp"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace ezo {
namespace {

constexpr int kFractionBits = 20;                             // of a loss
constexpr std::int64_t kLargestLoss = std::int64_t{1} << 50;
constexpr std::int64_t kLog2E = 1549082005;                   // round(log2(e) 2^30)
constexpr std::int64_t kOne = std::int64_t{1} << 30;          // 1 in the tables
constexpr int kGradientBits = 11;

// (largest - a) log2(e) 2^exponent, in units of 2^-20 bit
std::int64_t below_largest(std::int64_t largest, std::int64_t a, int exponent) {
  const std::int64_t product = (largest - a) * kLog2E;
  const int right = 30 - kFractionBits - exponent;
  if (right > 62) return 0;
  if (right > 0) {
    return std::min((product + (std::int64_t{1} << (right - 1))) >> right, kLargestLoss);
  }
  const int left = std::min(-right, 50);
  return product > kLargestLoss >> left ? kLargestLoss : product << left;
}

// 2^-d, in units of 2^-30
std::int64_t exp2_of(std::int64_t d, const std::int64_t* table) {
  const int rest = kFractionBits - 8;
  const std::int64_t fraction = d & ((std::int64_t{1} << kFractionBits) - 1);
  const std::int64_t j = fraction >> rest;
  const std::int64_t part = fraction & ((std::int64_t{1} << rest) - 1);
  const std::int64_t chord = table[j] - ((table[j] - table[j + 1]) * part >> rest);
  return chord >> std::min<std::int64_t>(d >> kFractionBits, 62);
}

// log2 of x 2^-30, for x of 2^30 or more, in units of 2^-20 bit
std::int64_t log2_of(std::int64_t x, const std::int64_t* table) {
  int whole = 0;
  for (int bits : {16, 8, 4, 2, 1}) {
    if (x >> (whole + bits) >= kOne) whole += bits;
  }
  const std::int64_t fraction = (x >> whole) - kOne, j = fraction >> 22;
  const std::int64_t part = fraction & ((std::int64_t{1} << 22) - 1);
  const std::int64_t chord = table[j] + ((table[j + 1] - table[j]) * part >> 22);
  const int down = 30 - kFractionBits;
  return (std::int64_t{whole} << kFractionBits) +
         ((chord + (std::int64_t{1} << (down - 1))) >> down);
}

int bit_length(std::uint64_t x) {
  int bits = 0;
  for (; x; x >>= 1) ++bits;
  return bits;
}

void check(const std::int64_t* target, std::size_t n, std::size_t classes) {
  for (std::size_t i = 0; i < n; ++i) {
    if (target[i] < 0 || target[i] >= static_cast<std::int64_t>(classes)) {
      throw std::out_of_range("expected targets in [0, " + std::to_string(classes) + "), got " +
                              std::to_string(target[i]));
    }
  }
}

}  // namespace

std::vector<std::int32_t> aligned(const std::int8_t* bias, int outputs, int left) {
  std::vector<std::int32_t> moved(outputs, 0);
  if (bias == nullptr) return moved;
  const int by = std::min(std::abs(left), 40);
  const std::int64_t held = std::int64_t{1} << 29;
  for (int o = 0; o < outputs; ++o) {
    std::int64_t m = std::abs(static_cast<std::int64_t>(bias[o]));
    m = left >= 0 ? m << by : (m + (std::int64_t{1} << (by - 1))) >> by;
    moved[o] = static_cast<std::int32_t>(std::min(m, held)) * (bias[o] < 0 ? -1 : 1);
  }
  return moved;
}

std::int64_t total_loss(const std::int32_t* logits, std::size_t n, std::size_t classes,
                        int exponent, const std::int64_t* target, Tables tables) {
  std::int64_t total = 0;
  check(target, n, classes);
  for (std::size_t i = 0; i < n; ++i, logits += classes) {
    const std::int64_t largest = *std::max_element(logits, logits + classes);
    std::int64_t sum = 0;
    for (std::size_t k = 0; k < classes; ++k) {
      sum += exp2_of(below_largest(largest, logits[k], exponent), tables.exp2);
    }
    const std::int64_t own = below_largest(largest, logits[target[i]], exponent);
    total += std::min(own + log2_of(sum, tables.log2), kLargestLoss);
  }
  return total;
}

void error_of_loss(const std::int32_t* logits, std::size_t n, std::size_t classes, int exponent,
                   const std::int64_t* target, Tables tables, const std::int64_t* words,
                   std::int8_t* error) {
  constexpr int drop = kGradientBits - 7;
  constexpr std::int64_t low = (1 << drop) - 1;
  check(target, n, classes);
  std::vector<std::int64_t> p(classes);
  for (std::size_t i = 0; i < n; ++i, logits += classes, words += classes, error += classes) {
    const std::int64_t largest = *std::max_element(logits, logits + classes);
    std::int64_t sum = 0, all = 0;
    for (std::size_t k = 0; k < classes; ++k) {
      p[k] = exp2_of(below_largest(largest, logits[k], exponent), tables.exp2);
      sum += p[k];
    }
    for (std::size_t k = 0; k < classes; ++k) {
      p[k] = (p[k] << kGradientBits) / sum;
      all += p[k];
    }
    p[target[i]] -= all;
    for (std::size_t k = 0; k < classes; ++k) {
      const std::int64_t magnitude = std::abs(p[k]);
      const std::int64_t up = (magnitude & low) > (words[k] & low);
      const std::int64_t m = std::min<std::int64_t>((magnitude >> drop) + up, 127);
      error[k] = static_cast<std::int8_t>(p[k] < 0 ? -m : m);
    }
  }
}

template <class Sum>
void linear_gradient(const std::int8_t* err, const std::int32_t* where, const std::int8_t* x,
                     Sum* gradient, Sum* bias_gradient, std::size_t n, std::size_t points,
                     std::size_t outputs, std::size_t inputs) {
  std::fill_n(gradient, outputs * inputs, 0);
  if (bias_gradient != nullptr) std::fill_n(bias_gradient, outputs, 0);
  for (std::size_t i = 0; i < n; ++i, err += outputs, x += points * inputs) {
    for (std::size_t o = 0; o < outputs; ++o) {
      const std::int32_t e = err[o];
      if (e == 0) continue;
      const std::int8_t* from = where == nullptr ? x : x + where[i * outputs + o] * inputs;
      Sum* row = gradient + o * inputs;
      for (std::size_t j = 0; j < inputs; ++j) row[j] += e * from[j];
      if (bias_gradient != nullptr) bias_gradient[o] += e;
    }
  }
}

int error_at_points(const std::int8_t* err, const std::int32_t* where, const std::int8_t* weight,
                    std::int8_t* below, std::size_t n, std::size_t points, std::size_t outputs,
                    std::size_t inputs,
                    void (*rescale)(const std::int32_t*, std::int8_t*, std::size_t, int)) {
  std::vector<std::int32_t> sums(inputs), first(points), next(outputs);  // outputs by their point
  auto each = [&](auto use) {
    for (std::size_t i = 0; i < n; ++i) {
      std::fill(first.begin(), first.end(), -1);
      for (std::size_t o = 0; o < outputs; ++o) {
        if (err[i * outputs + o] == 0) continue;
        std::int32_t& head = first[where[i * outputs + o]];
        next[o] = head;
        head = static_cast<std::int32_t>(o);
      }
      for (std::size_t p = 0; p < points; ++p) {
        if (first[p] < 0) continue;
        std::fill(sums.begin(), sums.end(), 0);
        for (std::int32_t o = first[p]; o >= 0; o = next[o]) {
          const std::int32_t e = err[i * outputs + o];
          const std::int8_t* w = weight + o * inputs;
          for (std::size_t j = 0; j < inputs; ++j) sums[j] += e * w[j];
        }
        use(below + (i * points + p) * inputs);
      }
    }
  };
  std::int32_t largest = 0;
  each([&](std::int8_t*) {
    for (std::int32_t sum : sums) largest = std::max(largest, std::abs(sum));
  });
  const int shift = std::max(0, bit_length(largest) - 7);
  std::fill_n(below, n * points * inputs, 0);
  each([&](std::int8_t* to) { rescale(sums.data(), to, inputs, shift); });
  return shift;
}

template <class Sum>
void convolution_gradient(const std::int8_t* err, const std::int8_t* x, Sum* gradient,
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
          const std::int32_t e = *err++;
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

void max_pool_backward(const std::int8_t* err, const std::uint8_t* where, std::int8_t* below, int n,
                       int height, int width, int channels, int size) {
  const std::size_t row = static_cast<std::size_t>(width) * channels;
  std::fill_n(below, n * height * row, 0);
  for (int image = 0; image < n; ++image, below += height * row) {
    for (int i = 0; i < height / size; ++i) {
      for (int j = 0; j < width / size; ++j) {
        std::int8_t* block = below + i * size * row + j * size * channels;
        for (int c = 0; c < channels; ++c, ++err, ++where) {
          block[*where / size * row + *where % size * channels + c] = *err;
        }
      }
    }
  }
}

template <class Sum>
void pseudo_stochastic_update(std::int8_t* weight, std::uint8_t* fraction, const Sum* gradient,
                              std::size_t n, int mu, int bound) {
  std::int64_t largest = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const std::int64_t g = gradient[i];
    largest = std::max(largest, g < 0 ? -g : g);
  }
  const bool fine = fraction != nullptr;
  const int s = std::min(bit_length(largest) - mu - (fine ? 8 : 0), 62);
  const int half = std::max(s, 0) / 2;
  const std::int64_t most = fine ? INT32_MAX : 127;
  for (std::size_t i = 0; i < n; ++i) {
    const std::int64_t g = gradient[i];
    std::int64_t m = g < 0 ? -g : g;
    if (s > 0) {
      const std::int64_t r = m & ((std::int64_t{1} << s) - 1);
      const std::int64_t lower = (r & ((std::int64_t{1} << half) - 1)) << (s % 2);
      m = (m >> s) + ((r >> half) > lower);
    }
    m = std::min(m, most);
    if (g < 0) m = -m;
    if (fine) {
      const std::int64_t moved = 256 * weight[i] + fraction[i] - m;
      const std::int64_t held = std::clamp<std::int64_t>(moved, -256 * bound, 256 * bound + 255);
      weight[i] = static_cast<std::int8_t>(held >> 8);
      fraction[i] = static_cast<std::uint8_t>(held & 255);
    } else {
      weight[i] = static_cast<std::int8_t>(std::clamp<std::int64_t>(weight[i] - m, -bound, bound));
    }
  }
}

#define EZO_SUMS_IN(Sum)                                                                          \
  template void linear_gradient(const std::int8_t*, const std::int32_t*, const std::int8_t*,      \
                                Sum*, Sum*, std::size_t, std::size_t, std::size_t, std::size_t);  \
  template void convolution_gradient(const std::int8_t*, const std::int8_t*, Sum*, Sum*, int,     \
                                     int, int, int, int, int, int);                               \
  template void pseudo_stochastic_update(std::int8_t*, std::uint8_t*, const Sum*, std::size_t,    \
                                         int, int);
EZO_SUMS_IN(std::int32_t)
EZO_SUMS_IN(std::int64_t)
#undef EZO_SUMS_IN

}  // namespace ezo
