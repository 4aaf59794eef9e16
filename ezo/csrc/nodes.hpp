// Node perturbation of int8 layers: ezo/int8/nodes.py says what each number means; names are its.
//
// This header holds plain types only, for nodes.cpp is compiled once per instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

#include "noise.hpp"
#include "product.hpp"

namespace ezo {

// x times / 2^shift, rounded pseudo-stochastically.
struct Scale {
  std::int64_t times;
  int shift;
};

struct NodeKernels {
  // W <- clip(W - g times / 2^shift), within +-127; with a fraction, which may be null, 8 bits finer.
  void (*update)(std::int8_t* weight, std::uint8_t* fraction, const std::int32_t* g, std::size_t n,
                 Scale);
  // The sum of a[i] b[i].
  std::int64_t (*dot)(const std::int32_t* a, const std::int32_t* b, std::size_t n);
  // to += c x, and sum += x
  void (*add)(std::int32_t* to, std::int32_t* sum, int c, const std::int8_t* x, std::size_t n);
};

// A linear layer's numbers; bias and fractions may be null.
struct NodeLayer {
  std::int8_t* weight;  // (outputs, inputs)
  std::uint8_t* fraction;
  std::int8_t* bias;  // (outputs)
  std::uint8_t* bias_fraction;
  std::size_t outputs, inputs;
};

// What the last pass showed of it.
struct Seen {
  const std::int8_t* x;       // (n, inputs), or with `where` (n, points, inputs)
  const std::int8_t* y;       // (n, outputs) behind a ReLU, or null
  const std::int32_t* where;  // (n, outputs): the point that won, or null
  std::size_t n, points;
};

struct NodeScales {
  Scale weight, bias, mean;
};

// y <- clip(y + by n), and where there is a ReLU what is positive of it. int8 is clipped to +-127,
// int32 to what it holds but the lowest. 2^-sparse of the noise is not 0; `sparse` is 0 to 3.
template <class Number>
void node_shift(const SparseKernels&, Number* y, std::size_t n, Place, int sparse, std::int64_t by,
                bool relu);

// The update of a layer, from the examples' differences (n).
void node_update(const ProductKernels&, const SparseKernels&, const NodeKernels&, const NodeLayer&,
                 const Seen&, const std::int8_t* differences, Place, int sparse, const NodeScales&,
                 int threads);

}  // namespace ezo
