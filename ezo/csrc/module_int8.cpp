// Python's view of the integer kernels. ezo/int8/fast.py checks every argument before it comes here.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "int8_tail.hpp"
#include "module.hpp"
#include "pool.hpp"

namespace nb = nanobind;

namespace ezo {
namespace {

using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<void, Free>;

Memory allocate(std::size_t bytes) {
  Memory memory(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
  if (!memory) throw std::bad_alloc();
  return memory;
}

constexpr std::int64_t kWorthAThread = 1 << 20;  // products; below, a second thread costs more
constexpr std::size_t kWorthASweep = 1 << 15;    // weights, likewise
constexpr int kTileBytes = 32 * 1024;            // of input, where positions can be taken apart

// The sums of a layer with weights over `images` of (height, width, channels), and what comes
// `after`; returns their largest magnitude.
std::uint32_t product(Address x, int images, int height, int width, int channels, Address weight,
                      int outputs, int kernel, int padding, Address bias, int bias_left, bool relu,
                      int pool, bool over_points, int shift, Address out, Address where,
                      int threads, const std::string& isa) {
  const Int8Kernels& kernels = *pick(isa).int8;
  nb::gil_scoped_release release;
  const std::vector<std::int32_t> start = aligned(at<const std::int8_t>(bias), outputs, bias_left);
  const Layer layer{channels, outputs, kernel, padding, at<const std::int8_t>(weight),
                    start.data()};
  const After after{relu, pool, over_points, shift};
  const int rows = height + 2 * padding - kernel + 1, columns = width + 2 * padding - kernel + 1;
  // A piece is an image, or some rows of a linear layer's.
  const bool pieces_fit = kernel == 1 && padding == 0 && pool == 1 && height == 1;
  const int tile = pieces_fit ? std::min(width, std::max(16, kTileBytes / channels)) : width;
  const int pieces = (width + tile - 1) / tile;
  const std::size_t result = after.shift < 0 ? 4 : 1;
  const std::size_t image_out =
      over_points ? outputs
                  : static_cast<std::size_t>(rows / pool) * (columns / pool) * outputs;
  if (over_points && after.shift < 0) {
    std::fill_n(at<std::int32_t>(out), images * image_out, relu ? 0 : INT_MIN);
  } else if (over_points) {
    std::fill_n(at<std::int8_t>(out), images * image_out, -128);  // below every number
  }
  const std::int64_t products =
      std::int64_t{images} * rows * columns * outputs * kernel * kernel * channels;
  const int units = over_points ? images : images * pieces;
  const int workers = static_cast<int>(std::max<std::int64_t>(
      1, std::min<std::int64_t>({threads, units, products / kWorthAThread})));
  const auto* inputs = at<const std::int8_t>(x);
  const std::size_t all_inputs = static_cast<std::size_t>(images) * height * width * channels;
  const Products& k =
      kernels.lowest(inputs, all_inputs) < 0 ? kernels.any : kernels.non_negative;
  const Sizes sizes = k.sizes(layer, height, tile);
  const Memory packed = allocate(sizes.packed);
  k.pack(layer, packed.get());
  std::vector<Memory> scratch;
  for (int t = 0; t < workers; ++t) scratch.push_back(allocate(sizes.scratch));
  std::vector<std::uint32_t> largest(workers, 0);
  auto piece = [&](int worker, int image, int p) {
    const int first = p * tile, last = std::min(width, first + tile);
    const auto* from = inputs +
                       (static_cast<std::size_t>(image) * height * width + first) * channels;
    char* to = at<char>(out) + result * (image * image_out +
                                         (over_points ? 0 : static_cast<std::size_t>(first) * outputs));
    auto* places = where == 0 ? nullptr : at<std::int32_t>(where) + image * image_out;
    largest[worker] = std::max(
        largest[worker], k.image(layer, after, packed.get(), scratch[worker].get(), from, height,
                                 last - first, to, places, first));
  };
  Pool::instance().run(workers, [&](int t) {
    const int first = static_cast<int>(std::int64_t{units} * t / workers);
    const int last = static_cast<int>(std::int64_t{units} * (t + 1) / workers);
    for (int u = first; u < last; ++u) {
      if (over_points) {
        for (int p = 0; p < pieces; ++p) piece(t, u, p);
      } else {
        piece(t, u / pieces, u % pieces);
      }
    }
  });
  return *std::max_element(largest.begin(), largest.end());
}

void rescale(Address in, Address out, std::size_t n, int shift, const std::string& isa) {
  pick(isa).int8->rescale(at<const std::int32_t>(in), at<std::int8_t>(out), n, shift);
}

// (address of int8 data, of its fraction or 0, elements, tensor number)
using Tensor = std::tuple<Address, Address, std::size_t, std::uint32_t>;

template <class Run>
void each(const std::vector<Tensor>& tensors, int threads, Run run) {
  std::size_t total = 0;
  for (const auto& [address, fraction, n, tensor] : tensors) total += n;
  const int workers =
      static_cast<int>(std::max<std::size_t>(1, std::min<std::size_t>(threads, total / kWorthASweep)));
  Pool::instance().run(workers, [&](int t) {
    // Groups are dealt out like cards, tensor by tensor: any share is as good as another.
    for (const auto& [address, fraction, n, tensor] : tensors) {
      const std::size_t groups = (n + kSparseGroup - 1) / kSparseGroup;
      const std::size_t begin = groups * t / workers * kSparseGroup;
      const std::size_t end = std::min(n, groups * (t + 1) / workers * kSparseGroup);
      if (begin < end) {
        run(at<std::int8_t>(address), at<std::uint8_t>(fraction), begin, end, tensor);
      }
    }
  });
}

void sparse_shift(const std::vector<Tensor>& tensors, std::uint64_t seed, std::uint32_t step,
                  std::uint32_t stream, std::uint32_t threshold, std::uint32_t multiplier,
                  int times, int threads, const std::string& isa) {
  const Kernels& k = pick(isa);
  nb::gil_scoped_release release;
  each(tensors, threads, [&](std::int8_t* p, std::uint8_t*, std::size_t begin, std::size_t end,
                             std::uint32_t t) {
    k.sparse_shift(p, begin, end, {seed, t, step, stream}, {threshold, multiplier}, times);
  });
}

void sparse_update(const std::vector<Tensor>& tensors, std::uint64_t seed, std::uint32_t step,
                   std::uint32_t stream, std::uint32_t threshold, std::uint32_t multiplier, int g,
                   int rate, int bound, int restore, int threads, const std::string& isa) {
  const Kernels& k = pick(isa);
  nb::gil_scoped_release release;
  each(tensors, threads, [&](std::int8_t* p, std::uint8_t* fraction, std::size_t begin,
                             std::size_t end, std::uint32_t t) {
    k.sparse_update(p, fraction, begin, end, {seed, t, step, stream}, {threshold, multiplier},
                    {g, rate, bound, restore});
  });
}

std::int64_t loss(Address logits, std::size_t n, std::size_t classes, int exponent, Address target,
                  Address exp2, Address log2) {
  const Tables tables{at<const std::int64_t>(exp2), at<const std::int64_t>(log2)};
  return total_loss(at<const std::int32_t>(logits), n, classes, exponent,
                    at<const std::int64_t>(target), tables);
}

void loss_error(Address logits, std::size_t n, std::size_t classes, int exponent, Address target,
                Address exp2, Address log2, Address words, Address out) {
  const Tables tables{at<const std::int64_t>(exp2), at<const std::int64_t>(log2)};
  error_of_loss(at<const std::int32_t>(logits), n, classes, exponent, at<const std::int64_t>(target),
                tables, at<const std::int64_t>(words), at<std::int8_t>(out));
}

// The first n words, a multiple of kGroup, of tensor 0.
// (n, positions, channels) to (n, channels, positions)
void flatten(Address x, Address out, std::size_t n, std::size_t positions, std::size_t channels) {
  const auto* from = at<const std::int8_t>(x);
  auto* to = at<std::int8_t>(out);
  for (std::size_t i = 0; i < n; ++i, to += positions * channels) {
    for (std::size_t p = 0; p < positions; ++p) {
      for (std::size_t c = 0; c < channels; ++c) to[c * positions + p] = *from++;
    }
  }
}

void words(Address out, std::size_t n, std::uint64_t seed, std::uint32_t step, std::uint32_t stream,
           const std::string& isa) {
  std::uint32_t group[kGroup];
  for (std::size_t first = 0; first < n; first += kGroup) {
    pick(isa).words(group, first / kGroup, first / kGroup + 1, {seed, 0, step, stream});
    std::copy_n(group, kGroup, at<std::int64_t>(out) + first);
  }
}

// `run` with a number of the type that gradients are summed in.
template <class Run>
void in_sums(bool wide, Run run) {
  nb::gil_scoped_release release;
  if (wide) return run(std::int64_t{});
  run(std::int32_t{});
}

void weight_gradient(Address err, Address where, Address x, Address gradient,
                     Address bias_gradient, std::size_t n, std::size_t points, std::size_t outputs,
                     std::size_t inputs, bool wide) {
  in_sums(wide, [&](auto sum) {
    linear_gradient(at<const std::int8_t>(err), at<const std::int32_t>(where),
                    at<const std::int8_t>(x), at<decltype(sum)>(gradient),
                    at<decltype(sum)>(bias_gradient), n, points, outputs, inputs);
  });
}

int point_error(Address err, Address where, Address weight, Address below, std::size_t n,
                std::size_t points, std::size_t outputs, std::size_t inputs,
                const std::string& isa) {
  const Int8Kernels& kernels = *pick(isa).int8;
  nb::gil_scoped_release release;
  return error_at_points(at<const std::int8_t>(err), at<const std::int32_t>(where),
                         at<const std::int8_t>(weight), at<std::int8_t>(below), n, points, outputs,
                         inputs, kernels.rescale);
}

void conv_gradient(Address err, Address x, Address gradient, Address bias_gradient, int n,
                   int height, int width, int channels, int outputs, int kernel, int padding,
                   bool wide) {
  in_sums(wide, [&](auto sum) {
    convolution_gradient(at<const std::int8_t>(err), at<const std::int8_t>(x),
                         at<decltype(sum)>(gradient), at<decltype(sum)>(bias_gradient), n, height,
                         width, channels, outputs, kernel, padding);
  });
}

void pool(Address x, Address y, Address where, int n, int height, int width, int channels,
          int size) {
  nb::gil_scoped_release release;
  max_pool(at<const std::int8_t>(x), at<std::int8_t>(y), at<std::uint8_t>(where), n, height, width,
           channels, size);
}

void pool_backward(Address err, Address where, Address below, int n, int height, int width,
                   int channels, int size) {
  nb::gil_scoped_release release;
  max_pool_backward(at<const std::int8_t>(err), at<const std::uint8_t>(where),
                    at<std::int8_t>(below), n, height, width, channels, size);
}

void update(Address weight, Address fraction, Address gradient, std::size_t n, int mu, int bound,
            bool wide) {
  in_sums(wide, [&](auto sum) {
    pseudo_stochastic_update(at<std::int8_t>(weight), at<std::uint8_t>(fraction),
                             at<const decltype(sum)>(gradient), n, mu, bound);
  });
}

}  // namespace

void bind_int8(nb::module_& m) {
  m.def("int8_product", &product);
  m.def("int8_rescale", &rescale);
  m.def("int8_shift", &sparse_shift);
  m.def("int8_update", &sparse_update);
  m.def("int8_loss", &loss);
  m.def("int8_loss_error", &loss_error);
  m.def("int8_flatten", &flatten);
  m.def("int8_words", &words);
  m.def("int8_weight_gradient", &weight_gradient);
  m.def("int8_point_error", &point_error);
  m.def("int8_conv_gradient", &conv_gradient);
  m.def("int8_max_pool", &pool);
  m.def("int8_max_pool_backward", &pool_backward);
  m.def("int8_bp_update", &update);
}

}  // namespace ezo
