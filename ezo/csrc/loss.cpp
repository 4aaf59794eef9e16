// Cross-entropy of integer logits and its error; ezo/int8/loss.py says what each number means.
#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "integers.hpp"

namespace ezo {
namespace {

constexpr int kLossFractionBits = 20;                             // of a loss
constexpr std::int64_t kLargestLoss = std::int64_t{1} << 50;
constexpr std::int64_t kLog2E = 1549082005;                   // round(log2(e) 2^30)
constexpr std::int64_t kOne = std::int64_t{1} << 30;          // 1 in the tables
constexpr int kGradientBits = 11;

// (largest - a) log2(e) 2^exponent, in units of 2^-20 bit
std::int64_t below_largest(std::int64_t largest, std::int64_t a, int exponent) {
  const std::int64_t product = (largest - a) * kLog2E;
  const int right = 30 - kLossFractionBits - exponent;
  if (right > 62) return 0;
  if (right > 0) {
    return std::min((product + (std::int64_t{1} << (right - 1))) >> right, kLargestLoss);
  }
  const int left = std::min(-right, 50);
  return product > kLargestLoss >> left ? kLargestLoss : product << left;
}

// 2^-d, in units of 2^-30
std::int64_t exp2_of(std::int64_t d, const std::int64_t* table) {
  const int rest = kLossFractionBits - 8;
  const std::int64_t fraction = d & ((std::int64_t{1} << kLossFractionBits) - 1);
  const std::int64_t j = fraction >> rest;
  const std::int64_t part = fraction & ((std::int64_t{1} << rest) - 1);
  const std::int64_t chord = table[j] - ((table[j] - table[j + 1]) * part >> rest);
  return chord >> std::min<std::int64_t>(d >> kLossFractionBits, 62);
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
  const int down = 30 - kLossFractionBits;
  return (std::int64_t{whole} << kLossFractionBits) +
         ((chord + (std::int64_t{1} << (down - 1))) >> down);
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

std::int64_t total_loss(const std::int32_t* logits, std::size_t n, std::size_t classes,
                        int exponent, const std::int64_t* target, Tables tables,
                        std::int64_t* each) {
  std::int64_t total = 0;
  check(target, n, classes);
  for (std::size_t i = 0; i < n; ++i, logits += classes) {
    const std::int64_t largest = *std::max_element(logits, logits + classes);
    std::int64_t sum = 0;
    for (std::size_t k = 0; k < classes; ++k) {
      sum += exp2_of(below_largest(largest, logits[k], exponent), tables.exp2);
    }
    const std::int64_t own = below_largest(largest, logits[target[i]], exponent);
    const std::int64_t loss = std::min(own + log2_of(sum, tables.log2), kLargestLoss);
    if (each != nullptr) each[i] = loss;
    total += loss;
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

}  // namespace ezo
