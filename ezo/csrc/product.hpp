// Products of int8 numbers for the layers of an integer network, and how they are requantized.
//
// ezo/int8/ops.py and ezo/int8/layers.py define the same in plain torch: the two agree to the bit.
// This header holds plain types only, for product.cpp is compiled once per instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ezo {

// A layer with weights: a convolution of stride 1 with square kernels. A linear layer is one with
// kernel 1, the features its channels, the rows of x its positions.
struct Layer {
  int channels, outputs, kernel, padding;
  const std::int8_t* weight;  // (outputs, channels, kernel, kernel)
  const std::int8_t* bias;    // (outputs), added as bias 2^bias_left; or null
  int bias_left;
};

// Inputs (images, height, width, channels); of a linear layer (images, 1, rows, features).
struct Images {
  const std::int8_t* data;
  int images, height, width;
};

// What becomes of the accumulators before they are stored.
struct After {
  bool relu;
  int pool;          // size of the blocks of which the largest is kept; 1 keeps all
  bool over_points;  // instead: keep the largest of each output over all positions
  int shift;         // requantize to int8 by it, to nearest; negative: store them as int32
};

// Elements of a packed layer and of the scratch that one call needs, in bytes.
struct Sizes {
  std::size_t packed, scratch;
};

struct Products {
  // For images of height x width positions, or height 1 and width rows.
  Sizes (*sizes)(const Layer&, int height, int width);
  // Weights in the order in which the products read them, and what the accumulators begin with,
  // from the bias at their exponent: see product.cpp.
  void (*pack)(const Layer&, const std::int32_t* bias, void* packed);
  // One image x (height, width, channels) to out, int8 or int32, (height', width', outputs) or, over
  // points, (outputs), joined to what is there. Over points and int8, `where` gets the first position
  // of each largest, of which x's begin with `first`. Returns the accumulators' largest magnitude.
  std::uint32_t (*image)(const Layer&, const After&, const void* packed, void* scratch,
                         const std::int8_t* x, int height, int width, void* out,
                         std::int32_t* where, int first);
};

struct ProductKernels {
  Products any;           // inputs
  Products non_negative;  // inputs only: faster on some processors
  std::int8_t (*lowest)(const std::int8_t* x, std::size_t n);  // 0 where none is below
  // out = in / 2^shift, rounded to nearest, within +-127.
  void (*requantize)(const std::int32_t* in, std::int8_t* out, std::size_t n, int shift);
};

}  // namespace ezo
