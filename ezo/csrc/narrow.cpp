// Products of convolutions with few outputs, which would leave lanes empty: here neighbouring lanes are
// neighbouring positions, and of blocks of which the largest is kept, neighbouring blocks.
//
// Compiled once per instruction set with EZO_ISA naming it. 32 bits of neighbouring inputs, as
// product.cpp multiplies them, are a word. Of a row of the image, those that neighbouring lanes meet
// stand side by side: lane q begins `step` inputs after lane q - 1, so every step-th word does.
//
// Index letters: o output, q lane, Y row of blocks, dy dx position in a block, i row of the kernel, g
// group of kInputs inputs of such a row.
#include <algorithm>
#include <cstring>
#include <utility>

#include "lanes.hpp"
#include "inputs.hpp"
#include "product.hpp"
#include "rows.hpp"
#include "unroll.hpp"

namespace ezo {
namespace EZO_ISA {
namespace {

constexpr int kMost = 8;   // outputs
constexpr int kStep = 2;   // inputs from one lane to the next: more are slow to put side by side
constexpr int kGroups = 8;  // of a row of the kernel

bool narrow(const Layer& layer, const After& after, int height, int width) {
  const int rows = layer.rows(height), columns = layer.columns(width), pool = after.pool;
  const int lanes = (columns / pool + kLanes - 1) / kLanes;
  return layer.groups == 1 && !after.over_points && layer.outputs <= kMost &&
         layer.across * layer.channels * pool <= kStep && groups<Pairs>(layer) <= kGroups &&
         rows % pool == 0 && columns % pool == 0 &&
         4 * layer.outputs * pool * lanes < 3 * columns * blocks(layer);  // words cost something too
}

// Words of a row that begin at multiples of `step` and a rest: the inputs of `wide`, and lanes beyond.
int words_of(int wide, int step) {
  return ((wide + step - 1) / step + 2 * kLanes - 2) / kLanes * kLanes;
}

// The words of an image, by its row and by where they begin, as a multiple of the step and the rest.
template <class E>
struct Scratch {
  int row;  // words, of any step that `narrow` allows
  typename E::Input* image;
  std::int32_t* words;
  std::size_t bytes;

  Scratch(const Layer& layer, int height, int width, char* memory) {
    const std::size_t tall = height + layer.top + layer.bottom;
    const int wide = (width + layer.left + layer.right) * layer.channels;
    row = 0;
    for (int step = 1; step <= kStep; ++step) row = std::max(row, step * words_of(wide, step));
    const std::size_t of_image = (tall * wide + more() + 63) / 64 * 64 * sizeof *image;
    image = reinterpret_cast<typename E::Input*>(memory);
    words = reinterpret_cast<std::int32_t*>(memory + of_image);
    bytes = of_image + tall * row * sizeof *words;
  }
  std::size_t more() const { return row + 3 * kLanes; }  // inputs behind the last row
};

template <class E>
Sizes sizes(const Layer& layer, int height, int width) {
  const std::size_t weights = static_cast<std::size_t>(layer.high) * groups<E>(layer) * layer.outputs;
  return {start_bytes(layer) + weights * sizeof(std::int32_t),
          Scratch<E>(layer, height, width, nullptr).bytes};
}

// start as in product.cpp; then by row of the kernel, group and output a word of weights.
template <class E>
void pack(const Layer& layer, const std::int32_t* bias, void* packed) {
  auto* start = static_cast<std::int32_t*>(packed);
  begin<E>(layer, bias, layer.outputs, start);
  auto* to = reinterpret_cast<typename E::Weight*>(static_cast<char*>(packed) + start_bytes(layer));
  const int k = layer.high, c = layer.channels, n = layer.wide * c;
  for (int y = 0; y < k; ++y) {
    for (int i = 0; i < groups<E>(layer) * kInputs<E>; i += kInputs<E>) {
      for (int o = 0; o < layer.outputs; ++o) {
        const std::int8_t* w = layer.weight + o * n * k;
        for (int j = i; j < i + kInputs<E>; ++j) {
          *to++ = j < n ? w[(j % c * k + y) * layer.wide + j / c] : 0;
        }
      }
    }
  }
}

template <class E>
void side_by_side(const typename E::Input* from, int step, int n, std::int32_t* to) {
#if defined(__AVX512BW__)
  if (step == 2 && sizeof *from == 1) {  // halves of words stand side by side already
    alignas(64) std::uint16_t half[2 * kLanes];
    for (int q = 0; q < 2 * kLanes; ++q) half[q] = static_cast<std::uint16_t>((q + 1) / 2);
    const __m512i order = _mm512_load_si512(half);
    for (; n > 0; n -= kLanes, from += 2 * kLanes, to += kLanes) {
      store(to, (Lanes)_mm512_permutexvar_epi16(order, (__m512i)load(from)));
    }
    return;
  }
#endif
  for (int q = 0; q < n; ++q) std::memcpy(to + q, from + q * step, sizeof *to);
}

struct Place {
  const std::int32_t* words;  // where lane 0's begin
  std::ptrdiff_t row, down;   // from a row of the kernel, and of a block, to the next
  const int* at;              // where those of a row's groups begin
};

// The accumulators of kLanes positions, in `rows` rows: the largest to `best`, joined to what is there, and
// the lowest of all to `low`.
template <class E, int n, int rows>
void products(const Place& x, int high, int across, const std::int32_t* weights,
              const std::int32_t* start, Lanes* best, Lanes& low) {
  Lanes acc[rows][n];
  EZO_UNROLL
  for (int o = 0; o < n; ++o) {
    EZO_UNROLL
    for (int r = 0; r < rows; ++r) acc[r][o] = Lanes{} + start[o];
  }
  const std::int32_t* words = x.words;
  for (int i = 0; i < high; ++i, words += x.row) {
    for (int g = 0; g < across; ++g, weights += n) {
      Lanes inputs[rows];
      EZO_UNROLL
      for (int r = 0; r < rows; ++r) inputs[r] = load(words + x.at[g] + r * x.down);
      EZO_UNROLL
      for (int o = 0; o < n; ++o) {
        const Lanes w = Lanes{} + weights[o];
        EZO_UNROLL
        for (int r = 0; r < rows; ++r) acc[r][o] = E::dot(acc[r][o], inputs[r], w);
      }
    }
  }
  Lanes least = low;  // not in memory, where `best` might be
  EZO_UNROLL
  for (int o = 0; o < n; ++o) {
    Lanes most = best[o];
    EZO_UNROLL
    for (int r = 0; r < rows; ++r) {
      most = larger(most, acc[r][o]);
      least = smaller(least, acc[r][o]);
    }
    best[o] = most;
  }
  low = least;
}

inline Lanes requantized(Lanes x, const After& after) {
  typedef std::uint32_t Magnitudes __attribute__((vector_size(4 * kLanes)));
  const std::uint32_t half = after.shift > 0 ? std::uint32_t{1} << (after.shift - 1) : 0;
  const Lanes sign = x >> 31;
  const Magnitudes magnitude = ((Magnitudes)((x ^ sign) - sign) + half) >> after.shift;
  return (smaller((Lanes)magnitude, Lanes{} + 127) ^ sign) - sign;
}

// Of `positions` lanes, at `to` in an image that ends `room` outputs behind.
template <int n>
void put(const Lanes* best, const After& after, int positions, std::int8_t* to, std::size_t room) {
  // four outputs side by side in each lane, as they are to lie in memory
  std::int32_t fours[2][kLanes];
  Lanes four[2] = {};
  EZO_UNROLL
  for (int o = 0; o < n; ++o) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    const int at = 24 - o % 4 * 8;
#else
    const int at = o % 4 * 8;
#endif
    four[o / 4] |= (requantized(best[o], after) & 255) << at;
  }
  store(fours[0], four[0]);
  store(fours[1], four[1]);
  const std::size_t safe = room < kMost ? 0 : (room - kMost) / n + 1;
  int q = 0;
  for (; q < static_cast<int>(std::min<std::size_t>(safe, positions)); ++q, to += n) {
    // what spills over, the next ones cover
    std::memcpy(to, &fours[0][q], 4);
    std::memcpy(to + 4, &fours[1][q], 4);
  }
  for (; q < positions; ++q, to += n) {
    std::memcpy(to, &fours[0][q], std::min(n, 4));
    std::memcpy(to + 4, &fours[1][q], n - std::min(n, 4));
  }
}

template <class E, int n>
std::uint32_t image(const Layer& layer, const After& after, const void* packed, void* memory,
                    const std::int8_t* x, int height, int width, void* out) {
  const Scratch<E> scratch(layer, height, width, static_cast<char*>(memory));
  widen<E>(layer, x, height, width, scratch.more(), scratch.image);
  const int pool = after.pool, c = layer.channels, step = layer.across * c * pool;
  const int wide = (width + layer.left + layer.right) * c;
  const int each = words_of(wide, step);
  for (int y = 0; y < height + layer.top + layer.bottom; ++y) {
    for (int rest = 0; rest < step; ++rest) {
      side_by_side<E>(scratch.image + y * wide + rest, step, each,
                      scratch.words + y * scratch.row + rest * each);
    }
  }
  const auto* start = static_cast<const std::int32_t*>(packed);
  const auto* weights = start + start_bytes(layer) / sizeof *start;
  const int across = groups<E>(layer), down = layer.down * scratch.row;
  const int rows = layer.rows(height) / pool, columns = layer.columns(width) / pool;
  int at[kStep][kGroups];
  for (int dx = 0; dx < pool; ++dx) {
    for (int g = 0; g < across; ++g) {
      const int first = dx * layer.across * c + g * kInputs<E>;
      at[dx][g] = first % step * each + first / step;
    }
  }
  Lanes lanes, low{}, high{};
  for (int q = 0; q < kLanes; ++q) lanes[q] = q;
  for (int y = 0; y < rows; ++y) {
    for (int p = 0; p < columns; p += kLanes) {
      Lanes best[n], least{};
      EZO_UNROLL
      for (int o = 0; o < n; ++o) best[o] = Lanes{} + INT32_MIN;
      const std::int32_t* words = scratch.words + y * pool * down + p;
      for (int dx = 0; dx < pool; ++dx) {
        int dy = 0;
        for (; dy + 2 <= pool; dy += 2) {
          products<E, n, 2>({words + dy * down, scratch.row, down, at[dx]}, layer.high, across,
                            weights, start, best, least);
        }
        if (dy < pool) {
          products<E, n, 1>({words + dy * down, scratch.row, down, at[dx]}, layer.high, across,
                            weights, start, best, least);
        }
      }
      const int positions = std::min(kLanes, columns - p);
      const Lanes there = (Lanes)(lanes < Lanes{} + positions);
      low = smaller(low, least & there);
      EZO_UNROLL
      for (int o = 0; o < n; ++o) {
        high = larger(high, best[o] & there);
        if (after.relu) best[o] = larger(best[o], Lanes{});
      }
      const std::size_t first = (static_cast<std::size_t>(y) * columns + p) * n;
      if (after.shift >= 0) {
        put<n>(best, after, positions, static_cast<std::int8_t*>(out) + first,
               static_cast<std::size_t>(rows) * columns * n - first);
        continue;
      }
      for (int q = 0; q < positions; ++q) {
        for (int o = 0; o < n; ++o) {
          static_cast<std::int32_t*>(out)[first + q * n + o] = best[o][q];
        }
      }
    }
  }
  return largest_of(low, high);
}

template <class E, int... n>
std::uint32_t image_of(std::integer_sequence<int, n...>, const Layer& layer, const After& after,
                       const void* packed, void* scratch, const std::int8_t* x, int height,
                       int width, void* out) {
  static constexpr decltype(&image<E, 1>) all[] = {image<E, n + 1>...};
  return all[layer.outputs - 1](layer, after, packed, scratch, x, height, width, out);
}

template <class E>
std::uint32_t image(const Layer& layer, const After& after, const void* packed, void* scratch,
                    const std::int8_t* x, int height, int width, void* out, std::int32_t*, int) {
  return image_of<E>(std::make_integer_sequence<int, kMost>(), layer, after, packed, scratch, x,
                     height, width, out);
}

template <class E>
constexpr Products products_of = {sizes<E>, pack<E>, image<E>};

}  // namespace

extern const NarrowProducts narrow_products;
const NarrowProducts narrow_products = {narrow, products_of<Any>, products_of<Quads>};

}  // namespace EZO_ISA
}  // namespace ezo
