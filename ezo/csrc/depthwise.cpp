// Convolutions whose outputs read a channel of their own each, and sums of two tensors.
//
// Compiled once per instruction set with EZO_ISA naming it. Neighbouring channels are neighbouring
// lanes. 32 bits of a lane hold two int16, a channel's input at a position and at the next one, which
// meet two neighbouring weights of the kernel's row.
//
// Index letters: b block of kLanes channels, l lane, i row of the kernel, j pair of its columns,
// r position of a register block.
#include <algorithm>
#include <cstring>
#include <utility>

#include "lanes.hpp"
#include "product.hpp"
#include "rows.hpp"
#include "unroll.hpp"

namespace ezo {
namespace EZO_ISA {
namespace {

constexpr int kPositions = 5;

inline int pairs(const Layer& layer) { return (layer.wide + 1) / 2; }  // of a row of the kernel
inline std::size_t up(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

struct Scratch {
  std::int8_t* image = nullptr;   // with its border, and as much more as pairs read
  std::int32_t* pairs = nullptr;  // of the image's neighbours, and as many more as the last lanes read
  std::int32_t *row = nullptr, *best = nullptr;
  std::int8_t* small = nullptr;
  std::size_t bytes = 0;

  Scratch(const Layer& layer, int height, int width, char* memory) {
    const std::size_t wide = width + layer.left + layer.right;
    const std::size_t tall = height + layer.top + layer.bottom;
    const std::size_t columns = static_cast<std::size_t>(layer.columns(width)) * kLanes;
    const std::size_t n = tall * wide * layer.inputs();
    const std::size_t sizes[] = {up(n + kLanes + layer.inputs()), up(4 * (n + kLanes)),
                                 up(4 * columns), up(4 * columns), up(columns)};
    for (std::size_t size : sizes) bytes += size;
    if (memory == nullptr) return;
    image = reinterpret_cast<std::int8_t*>(memory);
    pairs = reinterpret_cast<std::int32_t*>(memory += sizes[0]);
    row = reinterpret_cast<std::int32_t*>(memory += sizes[1]);
    best = reinterpret_cast<std::int32_t*>(memory += sizes[2]);
    small = reinterpret_cast<std::int8_t*>(memory + sizes[3]);
  }
};

Sizes sizes(const Layer& layer, int height, int width) {
  const std::size_t of_block = static_cast<std::size_t>(layer.high) * pairs(layer) * kLanes;
  const std::size_t weights = blocks(layer) * of_block * sizeof(std::int32_t);
  return {start_bytes(layer) + weights, Scratch(layer, height, width, nullptr).bytes};
}

// start as in product.cpp; then by block, row and pair two weights for each lane, of which the second
// of an odd row's last pair is 0, as are those where there is no channel.
void pack(const Layer& layer, const std::int32_t* bias, void* packed) {
  auto* start = static_cast<std::int32_t*>(packed);
  auto* to = reinterpret_cast<std::int32_t*>(static_cast<char*>(packed) + start_bytes(layer));
  const int n = blocks(layer) * kLanes;
  for (int o = 0; o < n; ++o) start[o] = o < layer.outputs ? bias[o] : 0;
  for (int b = 0; b < blocks(layer); ++b) {
    for (int i = 0; i < layer.high; ++i) {
      for (int j = 0; j < layer.wide; j += 2) {
        for (int l = 0; l < kLanes; ++l) {
          const int o = b * kLanes + l;
          const std::int8_t* w =
              layer.weight + (static_cast<std::size_t>(o) * layer.high + i) * layer.wide + j;
          const std::int16_t both[] = {
              static_cast<std::int16_t>(o < layer.outputs ? w[0] : 0),
              static_cast<std::int16_t>(o < layer.outputs && j + 1 < layer.wide ? w[1] : 0)};
          std::memcpy(to++, both, sizeof both);
        }
      }
    }
  }
}

// The image with its border, and each input beside that of the next position.
void pair_up(const Layer& layer, const std::int8_t* x, int height, int width, const Scratch& to) {
  const std::size_t c = layer.inputs(), inner = width * c;
  const std::size_t wide = (width + layer.left + layer.right) * c;
  std::int8_t* at = to.image;
  auto zeros = [&](std::size_t n) {
    std::memset(at, 0, n);
    at += n;
  };
  zeros(layer.top * wide);
  for (int y = 0; y < height; ++y, x += inner) {
    zeros(layer.left * c);
    std::memcpy(at, x, inner);
    at += inner;
    zeros(layer.right * c);
  }
  zeros(layer.bottom * wide + kLanes + c);
  const std::size_t n = (height + layer.top + layer.bottom) * wide + kLanes;
  const std::int8_t* from = to.image;
  std::int32_t* pairs = to.pairs;
  for (std::size_t i = 0; i < n; ++i) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    const std::uint32_t first = from[i + c], second = from[i];
#else
    const std::uint32_t first = from[i], second = from[i + c];
#endif
    pairs[i] = static_cast<std::int32_t>((first & 0xFFFF) | second << 16);
  }
}

// Accumulators of n positions that stand `step` inputs apart, for one block of channels.
template <int n>
void taps(const std::int32_t* x, std::ptrdiff_t step, std::ptrdiff_t row, const Layer& layer,
          const std::int32_t* weights, const std::int32_t* start, std::int32_t* out) {
  Lanes acc[n];
  EZO_UNROLL
  for (int r = 0; r < n; ++r) acc[r] = load(start);
  const int high = layer.high, across = pairs(layer);
  const std::ptrdiff_t next = 2 * layer.inputs();
  for (int i = 0; i < high; ++i, x += row) {
    const std::int32_t* at = x;
    for (int j = 0; j < across; ++j, at += next, weights += kLanes) {
      const Lanes w = load(weights);
      EZO_UNROLL
      for (int r = 0; r < n; ++r) acc[r] = add_pairs(acc[r], load(at + r * step), w);
    }
  }
  EZO_UNROLL
  for (int r = 0; r < n; ++r) store(out + r * kLanes, acc[r]);
}

std::uint32_t image(const Layer& layer, const After& after, const void* packed, void* memory,
                    const std::int8_t* x, int height, int width, void* out, std::int32_t*, int) {
  const Scratch scratch(layer, height, width, static_cast<char*>(memory));
  pair_up(layer, x, height, width, scratch);
  const auto* start = static_cast<const std::int32_t*>(packed);
  const auto* weights = reinterpret_cast<const std::int32_t*>(static_cast<const char*>(packed) +
                                                              start_bytes(layer));
  const int rows = layer.rows(height), columns = layer.columns(width);
  const std::ptrdiff_t step = static_cast<std::ptrdiff_t>(layer.across) * layer.inputs();
  const std::ptrdiff_t row =
      static_cast<std::ptrdiff_t>(width + layer.left + layer.right) * layer.inputs();
  Lanes low{}, high{};
  for (int b = 0; b < blocks(layer); ++b) {
    const std::int32_t* of_block =
        weights + static_cast<std::size_t>(b) * layer.high * pairs(layer) * kLanes;
    for (int y = 0; y < rows; ++y) {
      const std::int32_t* at = scratch.pairs + y * layer.down * row + b * kLanes;
      int p = 0;
      for (; p + kPositions <= columns; p += kPositions) {
        taps<kPositions>(at + p * step, step, row, layer, of_block, start + b * kLanes,
                         scratch.row + p * kLanes);
      }
      for (; p < columns; ++p) {
        taps<1>(at + p * step, step, row, layer, of_block, start + b * kLanes,
                scratch.row + p * kLanes);
      }
      finish(layer, after, {rows, columns, y, b}, scratch.row, scratch.best, scratch.small, out, low,
             high);
    }
  }
  return largest_of(low, high);
}

}  // namespace

extern const Products depthwise;
const Products depthwise = {sizes, pack, image};

std::uint32_t add(const std::int8_t* a, const std::int8_t* b, std::int8_t* out, std::size_t n,
                  int left, int left_of_b, bool relu, int shift);
std::uint32_t add(const std::int8_t* a, const std::int8_t* b, std::int8_t* out, std::size_t n,
                  int left, int left_of_b, bool relu, int shift) {
  auto half = [](int by) { return by > 0 ? std::uint32_t{1} << (by - 1) : 0; };
  auto places = [](int by) { return std::min(std::max(by, 0), 30); };
  const int up_a = places(left), up_b = places(left_of_b);
  const int down_a = places(-left), down_b = places(-left_of_b);
  const std::uint32_t half_a = half(down_a), half_b = half(down_b), half_of_sum = half(shift);
  const std::int32_t floor = relu ? 0 : -127;
  std::int32_t low = 0, high = 0;
  for (std::size_t i = 0; i < n; ++i) {
    // to the left in 32 bits; to the right it is an int8 number still
    const std::int32_t x = down_a ? requantized(a[i], half_a, down_a) : a[i] * (1 << up_a);
    const std::int32_t y = down_b ? requantized(b[i], half_b, down_b) : b[i] * (1 << up_b);
    const std::int32_t sum = x + y;
    low = std::min(low, sum);
    high = std::max(high, sum);
    out[i] = static_cast<std::int8_t>(
        std::max<std::int32_t>(requantized(sum, half_of_sum, shift), floor));
  }
  return std::max(static_cast<std::uint32_t>(high), 0u - static_cast<std::uint32_t>(low));
}

}  // namespace EZO_ISA
}  // namespace ezo
