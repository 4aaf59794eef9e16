// Rows of accumulators, a block of kLanes outputs at a time: requantized, pooled and put in their places.
//
// Included once per instruction set, within its namespace's anonymous one, after lanes.hpp.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "product.hpp"

namespace ezo {
namespace EZO_ISA {
namespace {

inline int blocks(const Layer& layer) { return (layer.outputs + kLanes - 1) / kLanes; }
inline std::size_t start_bytes(const Layer& layer) {
  return (blocks(layer) * kLanes * sizeof(std::int32_t) + 63) / 64 * 64;
}

inline std::int8_t requantized(std::int32_t x, std::uint32_t half, int shift) {
  const std::int32_t sign = x >> 31;
  const std::uint32_t magnitude = (static_cast<std::uint32_t>((x ^ sign) - sign) + half) >> shift;
  const std::int32_t held = static_cast<std::int32_t>(std::min<std::uint32_t>(magnitude, 127));
  return static_cast<std::int8_t>((held ^ sign) - sign);
}

inline void requantize(const std::int32_t* in, std::int8_t* out, std::size_t n, int shift) {
  const std::uint32_t half = shift > 0 ? std::uint32_t{1} << (shift - 1) : 0;
  for (std::size_t i = 0; i < n; ++i) out[i] = requantized(in[i], half, shift);
}

// Rows of kLanes to the places of one block of outputs among all of a position. `room`: elements
// from `to` to the end of the image, within which a row may spill over what comes after it.
template <class T>
void place(const T* from, T* to, int positions, int outputs, int block, std::size_t room) {
  const int count = std::min(kLanes, outputs - block * kLanes);
  to += block * kLanes;
  int p = 0;
  if (count == kLanes || outputs < kLanes) {
    const std::size_t safe = count == kLanes  ? positions
                             : room < kLanes ? 0
                                             : (room - kLanes) / outputs + 1;
    for (; p < static_cast<int>(std::min<std::size_t>(safe, positions)); ++p) {
      std::memcpy(to + p * outputs, from + p * kLanes, kLanes * sizeof(T));
    }
  }
  for (; p < positions; ++p) {
    for (int l = 0; l < count; ++l) to[p * outputs + l] = from[p * kLanes + l];
  }
}

// Of one row of accumulators: the largest of each size x size block, joined to those of the rows above it,
// and of the whole row the extremes, joined to `lowest` and `highest`.
inline void pool_row(const std::int32_t* row, int columns, std::int32_t* best, int size, bool first,
              Lanes& lowest, Lanes& highest) {
  Lanes low = lowest, high = highest;  // not in memory, where `best` might be
  int p = 0;
  for (; p + size <= columns; p += size, best += kLanes) {
    Lanes m = load(row + p * kLanes), least = m;
    for (int j = 1; j < size; ++j) {
      const Lanes next = load(row + (p + j) * kLanes);
      m = larger(m, next);
      least = smaller(least, next);
    }
    low = smaller(low, least);
    high = larger(high, m);
    store(best, first ? m : larger(m, load(best)));
  }
  for (; p < columns; ++p) {
    low = smaller(low, load(row + p * kLanes));
    high = larger(high, load(row + p * kLanes));
  }
  lowest = low;
  highest = high;
}

// A row of accumulators in its image: the image's rows and columns, the row's number, and the block of
// outputs.
struct Row {
  int rows, columns, y, block;
};

// What comes after a row's products, but for maxima over points, to the image `out`. `best` and `small`
// are scratch for as many numbers as the row has.
inline void finish(const Layer& layer, const After& after, const Row& at, std::int32_t* row,
                   std::int32_t* scratch, std::int8_t* small, void* out, Lanes& low, Lanes& high) {
  const int size = after.pool, pooled = at.columns / size, y = at.y;
  std::int32_t* best = size > 1 ? scratch : row;
  pool_row(row, at.columns, best, size, y % size == 0, low, high);
  if (y % size != size - 1) return;
  if (after.relu) {
    for (int p = 0; p < pooled; ++p) {
      store(best + p * kLanes, larger(load(best + p * kLanes), Lanes{}));
    }
  }
  const std::size_t per_row = static_cast<std::size_t>(pooled) * layer.outputs;
  const std::size_t first = y / size * per_row, room = (at.rows / size - y / size) * per_row;
  if (after.shift < 0) {
    place(best, static_cast<std::int32_t*>(out) + first, pooled, layer.outputs, at.block, room);
  } else {
    requantize(best, small, pooled * kLanes, after.shift);
    place(small, static_cast<std::int8_t*>(out) + first, pooled, layer.outputs, at.block, room);
  }
}

inline std::uint32_t largest_of(Lanes low, Lanes high) {
  std::uint32_t largest = 0;
  for (int l = 0; l < kLanes; ++l) {
    largest = std::max({largest, static_cast<std::uint32_t>(high[l]),
                        0u - static_cast<std::uint32_t>(low[l])});
  }
  return largest;
}

}  // namespace
}  // namespace EZO_ISA
}  // namespace ezo
