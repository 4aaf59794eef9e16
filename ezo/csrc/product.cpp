// Integer products, a register block of positions x outputs at a time, without a copy of patches.
//
// Compiled once per instruction set with EZO_ISA naming it. The inner loop multiplies 32 bits of
// neighbouring inputs, the same for all outputs, with as many weights of each output: two int16
// each, or four bytes, of which the processor takes the inputs for unsigned. No encoding overflows
// or saturates, so every one gives the same bits.
//
// Index letters: o output, b block of kLanes outputs, l lane (output within a block), y row of the
// kernel, i input element within that row (column, channel), g group of kInputs inputs, j input
// within a group, r position of a register block.
//
// A packed layer, of 3 outputs, a kernel of 1 x 3 and one channel, where kLanes is 2, kInputs 2:
//
//     start: what the accumulators begin with      one int32 an output, to a multiple of 64 bytes
//       bias[0] bias[1] | bias[2] 0                less what an encoding's offset will add
//     weights: in the order in which one pass reads them
//       b = 0                                         b = 1
//       y = 0                                         y = 0
//       g = 0               g = 1                     g = 0               g = 1
//       l = 0    l = 1      l = 0    l = 1            l = 0    l = 1      l = 0    l = 1
//       w00 w01  w10 w11    w02 0    w12 0            w20 w21  0   0      w22 0    0   0
//
// where w[o][i] is output o's weight of input i. 32 bits are one group of one output, a register is
// one group of a block; zeros stand where there is no output or no input.
#include "product.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "lanes.hpp"
#include "inputs.hpp"
#include "rows.hpp"
#include "unroll.hpp"

namespace ezo {
namespace EZO_ISA {
namespace {

template <class E>
std::size_t weights_of_block(const Layer& layer) {
  return static_cast<std::size_t>(layer.high) * groups<E>(layer) * kInputs<E> * kLanes;
}
template <class E>
std::size_t packed_bytes(const Layer& layer) {
  return start_bytes(layer) +
         blocks(layer) * weights_of_block<E>(layer) * sizeof(typename E::Weight);
}

// The scratch of one call.
template <class E>
struct Scratch {
  typename E::Input* image = nullptr;  // with its border, and as many inputs more as the last group reads
  std::int32_t* row = nullptr;         // accumulators of one row of positions, one block of outputs
  std::int32_t* best = nullptr;        // the largest of each block of positions so far
  std::int8_t* small = nullptr;        // the same, as int8
  std::size_t bytes = 0;               // of all

  Scratch(const Layer& layer, int height, int width, char* memory) {
    const std::size_t wide = width + layer.left + layer.right;
    const std::size_t tall = height + layer.top + layer.bottom;
    const std::size_t columns = static_cast<std::size_t>(layer.columns(width)) * kLanes;
    take(image, memory, tall * wide * layer.channels + kInputs<E>);
    take(row, memory, columns);
    take(best, memory, columns);
    take(small, memory, columns);
  }

 private:
  template <class T>
  void take(T*& part, char* memory, std::size_t n) {
    if (memory != nullptr) part = reinterpret_cast<T*>(memory + bytes);
    bytes += (n * sizeof(T) + 63) / 64 * 64;
  }
};

// A group of weights that stand side by side.
inline void group(const std::int8_t* from, std::int8_t* to) { std::memcpy(to, from, 4); }
inline void group(const std::int8_t* from, std::int16_t* to) {
  to[0] = from[0];
  to[1] = from[1];
}

// The picture above.
template <class E>
void pack(const Layer& layer, const std::int32_t* bias_of, void* packed) {
  using Weight = typename E::Weight;
  constexpr int kOf = kInputs<E>;
  auto* start = static_cast<std::int32_t*>(packed);
  auto* to = reinterpret_cast<Weight*>(static_cast<char*>(packed) + start_bytes(layer));
  const int k = layer.high, c = layer.channels, n = layer.wide * c;
  for (int b = 0; b < blocks(layer); ++b) {
    const int lanes = std::min(kLanes, layer.outputs - b * kLanes);
    const std::int8_t* from = layer.weight + static_cast<std::size_t>(b) * kLanes * n * k;
    const int whole = k == 1 && layer.wide == 1 ? n / kOf * kOf : 0;  // inputs that stand in groups as they are
    for (int i = 0; i < whole; i += kOf, to += kLanes * kOf) {
      for (int l = 0; l < lanes; ++l) {
        group(from + static_cast<std::size_t>(l) * n + i, to + l * kOf);
      }
      std::fill(to + lanes * kOf, to + kLanes * kOf, 0);
    }
    for (int y = 0; y < k; ++y) {
      for (int i = whole; i < n; i += kOf, to += kLanes * kOf) {
        for (int l = 0; l < lanes; ++l) {
          const std::int8_t* w = from + static_cast<std::size_t>(l) * n * k;
          for (int j = 0; j < kOf; ++j) {
            to[l * kOf + j] = i + j < n ? w[((i + j) % c * k + y) * layer.wide + (i + j) / c] : 0;
          }
        }
        std::fill(to + lanes * kOf, to + kLanes * kOf, 0);
      }
    }
  }
  begin<E>(layer, bias_of, blocks(layer) * kLanes, start);
}

// Accumulators of `n` positions that stand `step` inputs apart, for one block of outputs.
template <class E, int n>
void product(const typename E::Input* x, std::ptrdiff_t step, std::ptrdiff_t row, int kernel,
             int per_row, const typename E::Weight* weights, const std::int32_t* start,
             std::int32_t* out) {
  Lanes acc[n];
  EZO_UNROLL
  for (int r = 0; r < n; ++r) acc[r] = load(start);
  for (int y = 0; y < kernel; ++y, x += row) {
    const typename E::Input* at = x;
    for (int g = 0; g < per_row; ++g, at += kInputs<E>, weights += kLanes * kInputs<E>) {
      const Lanes w = load(weights);
      EZO_UNROLL
      for (int r = 0; r < n; ++r) {
        std::int32_t inputs;
        std::memcpy(&inputs, at + r * step, sizeof inputs);
        acc[r] = E::dot(acc[r], Lanes{} + inputs, w);
      }
    }
  }
  EZO_UNROLL
  for (int r = 0; r < n; ++r) store(out + r * kLanes, acc[r]);
}

template <class E>
using Product = void (*)(const typename E::Input*, std::ptrdiff_t, std::ptrdiff_t, int, int,
                         const typename E::Weight*, const std::int32_t*, std::int32_t*);
template <class E, int... n>
Product<E> product_of(int positions, std::integer_sequence<int, n...>) {
  static constexpr Product<E> all[] = {product<E, n + 1>...};
  return all[positions - 1];
}

std::int8_t lowest(const std::int8_t* x, std::size_t n) {
  std::int8_t found = 0;
  for (std::size_t i = 0; i < n; ++i) found = std::min(found, x[i]);
  return found;
}

// Of `lanes` outputs over all positions of a row, as requantized in `small`: the largest and its first
// position, joined to those before. `best`: the largest, from the accumulators.
void join(const std::int8_t* small, int positions, const std::int8_t* best, int lanes, bool relu,
          int first, std::int8_t* out, std::int32_t* where) {
  const std::int8_t floor = relu ? 0 : -127;
  for (int l = 0; l < lanes; ++l) {
    const std::int8_t largest = std::max(best[l], floor);
    if (largest <= out[l]) continue;
    int p = 0;
    while (p < positions - 1 && std::max(small[p * kLanes + l], floor) < largest) ++p;
    out[l] = largest;
    where[l] = first + p;
  }
}

template <class E>
std::uint32_t image(const Layer& layer, const After& after, const void* packed, void* memory,
                    const std::int8_t* x, int height, int width, void* out, std::int32_t* where,
                    int first_position) {
  const Scratch<E> scratch(layer, height, width, static_cast<char*>(memory));
  widen<E>(layer, x, height, width, kInputs<E>, scratch.image);
  const auto* start = static_cast<const std::int32_t*>(packed);
  const auto* weights =
      reinterpret_cast<const typename E::Weight*>(static_cast<const char*>(packed) +
                                                  start_bytes(layer));
  const int rows = layer.rows(height), columns = layer.columns(width);
  const std::ptrdiff_t step = layer.across * layer.channels;
  const std::ptrdiff_t row = (width + layer.left + layer.right) * layer.channels;
  const int parts = (columns + kBlock - 1) / kBlock, each = (columns + parts - 1) / parts;
  Lanes low{}, high{};
  for (int b = 0; b < blocks(layer); ++b, start += kLanes, weights += weights_of_block<E>(layer)) {
    for (int y = 0; y < rows; ++y) {
      for (int p = 0, n; p < columns; p += n) {
        n = std::min(each, columns - p);
        product_of<E>(n, std::make_integer_sequence<int, kBlock>())(
            scratch.image + y * layer.down * row + p * step, step, row, layer.high, groups<E>(layer),
            weights, start, scratch.row + p * kLanes);
      }
      if (after.over_points) {
        pool_row(scratch.row, columns, scratch.best, columns, true, low, high);
        const int lanes = std::min(kLanes, layer.outputs - b * kLanes);
        if (after.shift < 0) {
          std::int32_t* to = static_cast<std::int32_t*>(out) + b * kLanes;
          for (int l = 0; l < lanes; ++l) {
            to[l] = std::max(to[l], scratch.best[l]);  // which began at 0 where there is a ReLU
          }
          continue;
        }
        std::int8_t best[kLanes];
        requantize(scratch.best, best, kLanes, after.shift);
        requantize(scratch.row, scratch.small, columns * kLanes, after.shift);
        join(scratch.small, columns, best, lanes, after.relu, first_position,
             static_cast<std::int8_t*>(out) + b * kLanes, where + b * kLanes);
        continue;
      }
      finish(layer, after, {rows, columns, y, b}, scratch.row, scratch.best, scratch.small, out, low,
             high);
    }
  }
  return largest_of(low, high);
}

template <class E>
Sizes sizes(const Layer& layer, int height, int width) {
  return {packed_bytes<E>(layer), Scratch<E>(layer, height, width, nullptr).bytes};
}

template <class E>
constexpr Products products = {sizes<E>, pack<E>, image<E>};

}  // namespace

extern const Products depthwise;
extern const NarrowProducts narrow_products;
std::uint32_t add(const std::int8_t*, const std::int8_t*, std::int8_t*, std::size_t, int, int, bool,
                  int);
extern const ProductKernels product_kernels;
const ProductKernels product_kernels = {products<Any>, products<Quads>, depthwise, narrow_products, lowest,
                                        add, requantize};

}  // namespace EZO_ISA
}  // namespace ezo
