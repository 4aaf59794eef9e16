// The driver of a layer's product: tiles, scratch and threads around the kernels of product.cpp.
#include <algorithm>
#include <climits>
#include <cstdlib>
#include <vector>

#include "integers.hpp"
#include "memory.hpp"
#include "pool.hpp"

namespace ezo {
namespace {

constexpr double kProductNanoseconds = 0.025;    // of a multiply-add on one core, roughly
constexpr double kDepthwiseNanoseconds = 0.05;   // where each output reads a channel of its own
constexpr int kTileBytes = 32 * 1024;          // of input, where positions can be taken apart

}  // namespace

std::vector<std::int32_t> aligned(const std::int8_t* bias, int outputs, int left) {
  std::vector<std::int32_t> moved(outputs, 0);
  if (bias == nullptr) return moved;
  const int by = std::min(std::abs(left), 40);
  const std::int64_t held = std::int64_t{1} << 29;
  for (int o = 0; o < outputs; ++o) {
    std::int64_t m = std::abs(static_cast<std::int64_t>(bias[o]));
    m = left >= 0 ? m << by : (m + (std::int64_t{1} << (by - 1))) >> by;
    moved[o] = static_cast<std::int32_t>(std::min(m, held)) * (bias[o] < 0 ? -1 : 1);
  }
  return moved;
}

std::uint32_t product(const ProductKernels& kernels, const Images& x, const Layer& layer,
                      const After& after, void* out, std::int32_t* where, int threads) {
  const std::vector<std::int32_t> bias = aligned(layer.bias, layer.outputs, layer.bias_left);
  const int rows = layer.rows(x.height), columns = layer.columns(x.width);
  // A piece is an image, or some rows of a linear layer's.
  const bool pieces_fit =
      layer.high == 1 && layer.wide == 1 && layer.groups == 1 && layer.across == 1 &&
      layer.left + layer.right == 0 && after.pool == 1 && x.height == 1;
  const int tile =
      pieces_fit ? std::min(x.width, std::max(16, kTileBytes / layer.channels)) : x.width;
  const int pieces = (x.width + tile - 1) / tile;
  const std::size_t per_position = after.shift < 0 ? sizeof(std::int32_t) : 1;
  const std::size_t per_image =
      after.over_points
          ? layer.outputs
          : static_cast<std::size_t>(rows / after.pool) * (columns / after.pool) * layer.outputs;
  if (after.over_points && after.shift < 0) {
    std::fill_n(static_cast<std::int32_t*>(out), x.images * per_image, after.relu ? 0 : INT_MIN);
  } else if (after.over_points) {
    std::fill_n(static_cast<std::int8_t*>(out), x.images * per_image, -128);  // below every number
  }
  const double products = double(x.images) * rows * columns * layer.outputs * layer.high *
                          layer.wide * layer.channels;
  const int units = after.over_points ? x.images : x.images * pieces;
  const bool depthwise = layer.groups > 1;
  const double each = depthwise ? kDepthwiseNanoseconds : kProductNanoseconds;
  const int workers = Pool::workers(threads, products * each, units);
  const std::size_t per_input = static_cast<std::size_t>(x.height) * x.width * layer.inputs();
  const bool signs = !depthwise && kernels.lowest(x.data, x.images * per_input) < 0;
  const bool narrow = kernels.narrow.serves(layer, after, x.height, x.width);
  const Products& k = depthwise ? kernels.depthwise
                      : narrow  ? signs ? kernels.narrow.any : kernels.narrow.non_negative
                      : signs   ? kernels.any
                                : kernels.non_negative;
  const Sizes sizes = k.sizes(layer, x.height, tile);
  const Memory packed = allocate(sizes.packed);
  k.pack(layer, bias.data(), packed.get());
  std::vector<Memory> scratch;
  for (int t = 0; t < workers; ++t) scratch.push_back(allocate(sizes.scratch));
  std::vector<std::uint32_t> largest(workers, 0);
  auto piece = [&](int worker, int image, int p) {
    const int first = p * tile, last = std::min(x.width, first + tile);
    const std::size_t skipped =
        after.over_points ? 0 : static_cast<std::size_t>(first) * layer.outputs;
    const std::uint32_t found = k.image(
        layer, after, packed.get(), scratch[worker].get(),
        x.data + image * per_input + static_cast<std::size_t>(first) * layer.channels, x.height,
        last - first, static_cast<char*>(out) + per_position * (image * per_image + skipped),
        where == nullptr ? nullptr : where + image * per_image, first);
    largest[worker] = std::max(largest[worker], found);
  };
  Pool::instance().run(workers, Pool::Then::spin, [&](int t) {
    const int first = static_cast<int>(std::int64_t{units} * t / workers);
    const int last = static_cast<int>(std::int64_t{units} * (t + 1) / workers);
    for (int u = first; u < last; ++u) {
      if (after.over_points) {
        for (int p = 0; p < pieces; ++p) piece(t, u, p);
      } else {
        piece(t, u / pieces, u % pieces);
      }
    }
  });
  return *std::max_element(largest.begin(), largest.end());
}

}  // namespace ezo
