// What a step in integers needs, in plain C++: a layer's product and gradients, pooling, the loss and
// the update. All but the product's kernels is the same on every processor.
//
// ezo/int8/{layers,ops,loss,rounding}.py are the same in plain torch, and say what each number means;
// names are theirs.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "product.hpp"

namespace ezo {

// layer.cpp

// int8 m to int32 m 2^left; `bias` may be null, for zeros.
std::vector<std::int32_t> aligned(const std::int8_t* bias, int outputs, int left);

// A layer's accumulators for x, and what comes `after`, to `out`; returns their largest magnitude.
// `where`, which may be null: Products::image.
std::uint32_t product(const ProductKernels&, const Images& x, const Layer&, const After&, void* out,
                      std::int32_t* where, int threads);

// loss.cpp

struct Tables {
  const std::int64_t* exp2;
  const std::int64_t* log2;
};

// Sum of the cross-entropies of (n, classes) logits, in units of 2^-20 bit; to `each` (n), which may
// be null, those of the examples.
std::int64_t total_loss(const std::int32_t* logits, std::size_t n, std::size_t classes,
                        int exponent, const std::int64_t* target, Tables tables,
                        std::int64_t* each);

// Gradient with respect to the logits, in units of 2^-7, rounded stochastically by `words`.
void error_of_loss(const std::int32_t* logits, std::size_t n, std::size_t classes, int exponent,
                   const std::int64_t* target, Tables tables, const std::int64_t* words,
                   std::int8_t* error);

// gradients.cpp

// grad_output^T x and the column totals of grad_output, from (n, outputs) and (n, inputs); the
// latter may be null. With `where` (n, outputs), which may be null too: from x (n, points, inputs),
// of which each error has the point that it came from; without it there is one point. Here and
// grad_input, Sum is int32, or int64 where so many products could overflow that.
template <class Sum>
void linear_gradient(const std::int8_t* grad_output, const std::int32_t* where,
                     const std::int8_t* x, Sum* gradient, Sum* bias_gradient, std::size_t n,
                     std::size_t points, std::size_t outputs, std::size_t inputs);

// The same for a convolution: grad_output (n, h', w', outputs) and x (n, h, w, channels) to the
// gradient (outputs, kernel, kernel, channels) and its bias's.
template <class Sum>
void convolution_gradient(const std::int8_t* grad_output, const std::int8_t* x, Sum* gradient,
                          Sum* bias_gradient, int n, int height, int width, int channels,
                          int outputs, int kernel, int padding);

// Errors (n, outputs), each of the point `where` says, to errors of the input (n, points, inputs),
// zero at other points, requantized by `shift`, one point at a time; returns the accumulators'
// largest magnitude.
std::uint32_t error_at_points(const ProductKernels&, const std::int8_t* grad_output,
                              const std::int32_t* where, const std::int8_t* weight,
                              std::int8_t* grad_input, std::size_t n, std::size_t points,
                              std::size_t outputs, std::size_t inputs, int shift);

// pooling.cpp

// The largest of each size x size block of x (n, h, w, c), and where in it, row by row, the first
// largest stands.
void max_pool(const std::int8_t* x, std::int8_t* y, std::uint8_t* where, int n, int height,
              int width, int channels, int size);

// Errors of the largest to errors of x, zero but for the largest.
void max_pool_backward(const std::int8_t* grad_output, const std::uint8_t* where,
                       std::int8_t* grad_input, int n, int height, int width, int channels,
                       int size);

// Means of the high x wide blocks of x, int8, to int32 (n, h', w', channels) in units of 2^-8, rounded
// to nearest; returns their largest magnitude.
std::uint32_t average(const Images& x, int channels, int high, int wide, std::int32_t* out);

// (n, rows, columns) to (n, columns, rows): images in one dimension, or with their channels last.
void transpose(const std::int8_t* x, std::int8_t* out, std::size_t n, std::size_t rows,
               std::size_t columns, int threads);

// update.cpp

// W <- clip(W - PSR(gradient, bits(gradient) - mu)), within +-bound. With a fraction, which may be
// null, the same for 256 W + fraction, 8 bits finer.
template <class Sum>
void pseudo_stochastic_update(std::int8_t* weight, std::uint8_t* fraction, const Sum* gradient,
                              std::size_t n, int mu, int bound);

}  // namespace ezo
