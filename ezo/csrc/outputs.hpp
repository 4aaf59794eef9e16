// Node perturbation of float32 layers: ezo/nodes says what each number means; names are its.
//
// Sums are of one order on every processor: over rows one after the other, and over the numbers of
// a row in halves. This header holds plain types only, for outputs.cpp is compiled once per
// instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

#include "noise.hpp"

namespace ezo {

// Index letters: i row, u output (unit), k input. Arrays lie in row-major order.
struct OutputKernels {
  // e_iu <- e_iu scale_i on_iu; `on` may be null.
  void (*scale)(float* e, const float* scale, const std::uint8_t* on, std::size_t rows, std::size_t n);
  // The sums of columns.
  void (*sum)(const float* a, std::size_t rows, std::size_t n, float* sum);
  // a_iu <- a_iu - mean_u
  void (*subtract)(float* a, const float* mean, std::size_t rows, std::size_t n);
  // x . mean; `room` holds n numbers.
  float (*dot)(const float* x, const float* mean, std::size_t n, float* room);
};

// What the last pass showed of a linear layer, and what its examples' losses say.
struct OutputSeen {
  const float* x;      // (rows, inputs)
  const std::uint8_t* on;      // (rows, units), or null
  const float* scale;  // (rows)
  std::size_t rows, inputs, units;
};

// y <- y + by z, n numbers; `on`, which may be null, says which are above 0 then.
void output_shift(const FloatKernels&, float* y, std::uint8_t* on, std::size_t n, Noise, Place, float by,
                  int threads);

// e_iu = scale_i z_iu on_iu, (rows, units), less its mean over rows where there is a bias, (units),
// which learns here; it may be null.
void output_errors(const FloatKernels&, const OutputKernels&, const OutputSeen&, float* bias,
                   float* e, Noise, Place, float rate);

}  // namespace ezo
