// Products of int8 numbers for the layers of an integer network, and how they are requantized.
//
// ezo/int8/ops.py and ezo/int8/layers.py define the same in plain torch: the two agree to the bit.
// This header holds plain types only, for product.cpp is compiled once per instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ezo {

// A layer with weights: a convolution. A linear layer is one with kernel 1, the features its channels,
// the rows of x its positions.
struct Layer {
  int channels, outputs;         // channels: of x that an output reads
  int high, wide;                // a kernel
  int down, across;              // its stride
  int top, bottom, left, right;  // zeros around an image
  int groups;                    // 1; or as many as outputs, each of which reads a channel of its own
  const std::int8_t* weight;     // (outputs, channels, high, wide)
  const std::int8_t* bias;       // (outputs), added as bias 2^bias_left; or null
  int bias_left;

  // Of the usual form: square kernels, stride 1, as many zeros on each side, one group.
  static Layer square(int channels, int outputs, int kernel, int padding, const std::int8_t* weight,
                      const std::int8_t* bias, int bias_left) {
    return {channels, outputs, kernel,  kernel, 1,      1,    padding,
            padding,  padding, padding, 1,      weight, bias, bias_left};
  }
  int inputs() const { return channels * groups; }  // channels of x
  int rows(int height) const { return (height + top + bottom - high) / down + 1; }
  int columns(int width) const { return (width + left + right - wide) / across + 1; }
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

// Of convolutions with few outputs, where `serves` says that they are faster: see narrow.cpp.
struct NarrowProducts {
  bool (*serves)(const Layer&, const After&, int height, int width);
  Products any, non_negative;
};

struct ProductKernels {
  Products any;           // inputs
  Products non_negative;  // inputs only: faster on some processors
  Products depthwise;     // of layers with groups
  NarrowProducts narrow;
  std::int8_t (*lowest)(const std::int8_t* x, std::size_t n);  // 0 where none is below
  // a 2^left + b 2^left', where a negative one is a shift to the right that rounds to nearest, and what
  // is to become of it, to out; returns the sums' largest magnitude.
  std::uint32_t (*add)(const std::int8_t* a, const std::int8_t* b, std::int8_t* out, std::size_t n,
                       int left, int left_of_b, bool relu, int shift);
  // out = in / 2^shift, rounded to nearest, within +-127.
  void (*requantize)(const std::int32_t* in, std::int8_t* out, std::size_t n, int shift);
};

}  // namespace ezo
