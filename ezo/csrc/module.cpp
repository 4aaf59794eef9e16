// Python's view of the kernels, and all that knows of Python. ezo/kernels/compiled.py checks every
// argument before it comes here. How structs come is in structs.hpp.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "integers.hpp"
#include "nodes.hpp"
#include "outputs.hpp"
#include "structs.hpp"
#include "sweeps.hpp"

namespace nb = nanobind;

namespace ezo {
namespace {

using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

// A table of float tensors, read once for all sweeps of a step.
struct Table {
  std::vector<Target> targets;
};

// The kernels of one instruction set.
struct Handle {
  const Kernels& kernels;
};

void bind_sweeps(nb::class_<Handle>& handle) {
  handle.def("table", [](Handle, const std::vector<Plain>& plain, std::vector<Target> targets) {
    for (const Plain& p : plain) targets.push_back({p.data, p.n, p.tensor, p.type, {}, {}});
    return Table{std::move(targets)};
  });
  handle.def("fill", [](Handle h, const Table& table, int noise, Place place, int threads) {
    nb::gil_scoped_release release;
    fill(h.kernels, table.targets, static_cast<Noise>(noise), place, threads);
  });
  handle.def("shift", [](Handle h, const Table& table, int noise, Place place, Shift how,
                         int threads) {
    nb::gil_scoped_release release;
    shift(h.kernels, table.targets, static_cast<Noise>(noise), place, how, threads);
  });
  handle.def("update", [](Handle h, const Table& table, int noise, Place place, Update how,
                          int threads) {
    nb::gil_scoped_release release;
    update(h.kernels, table.targets, static_cast<Noise>(noise), place, how, threads);
  });
  handle.def("learn", [](Handle h, const Table& table, int noise, Place place, Learn how,
                         int threads) {
    nb::gil_scoped_release release;
    learn(h.kernels, table.targets, static_cast<Noise>(noise), place, how, threads);
  });
  handle.def("sparse_shift", [](Handle h, const std::vector<Weights>& tensors, Sparse noise,
                                Place place, int times, int threads) {
    nb::gil_scoped_release release;
    sparse_shift(h.kernels, tensors, noise, place, times, threads);
  });
  handle.def("sparse_update", [](Handle h, const std::vector<Weights>& tensors, Sparse noise,
                                 Place place, SparseUpdate how, int threads) {
    nb::gil_scoped_release release;
    sparse_update(h.kernels, tensors, noise, place, how, threads);
  });
  handle.def("words", [](Handle h, Place place, Address out, std::size_t n) {
    words(h.kernels, place, at<std::int64_t>(out), n);
  });
}

void bind_layers(nb::class_<Handle>& handle) {
  handle.def("product", [](Handle h, Images x, Layer layer, After after, Address out, Address where,
                           int threads) {
    nb::gil_scoped_release release;
    return product(*h.kernels.products, x, layer, after, at<void>(out), at<std::int32_t>(where),
                   threads);
  });
  handle.def("requantize", [](Handle h, Address in, Address out, std::size_t n, int shift) {
    h.kernels.products->requantize(at<const std::int32_t>(in), at<std::int8_t>(out), n, shift);
  });
  handle.def("add", [](Handle h, Address a, Address b, Address out, std::size_t n, int left,
                       int left_of_b, bool relu, int shift) {
    nb::gil_scoped_release release;
    return h.kernels.products->add(at<const std::int8_t>(a), at<const std::int8_t>(b),
                                   at<std::int8_t>(out), n, left, left_of_b, relu, shift);
  });
  handle.def("average", [](Handle, Images x, int channels, int high, int wide, Address out) {
    nb::gil_scoped_release release;
    return average(x, channels, high, wide, at<std::int32_t>(out));
  });
  handle.def("point_error", [](Handle h, Address grad_output, Address where, Address weight,
                               Address grad_input, std::size_t n, std::size_t points,
                               std::size_t outputs, std::size_t inputs, int shift) {
    nb::gil_scoped_release release;
    return error_at_points(*h.kernels.products, at<const std::int8_t>(grad_output),
                           at<const std::int32_t>(where), at<const std::int8_t>(weight),
                           at<std::int8_t>(grad_input), n, points, outputs, inputs, shift);
  });
}

// `run` with a number of the type in which gradients are accumulated.
template <class Run>
void in_type(bool wide, Run run) {
  nb::gil_scoped_release release;
  if (wide) return run(std::int64_t{});
  run(std::int32_t{});
}

void bind_backward(nb::class_<Handle>& handle) {
  handle.def("linear_gradient", [](Handle, Address grad_output, Address where, Address x,
                                   Address gradient, Address of_bias, std::size_t n,
                                   std::size_t points, std::size_t outputs, std::size_t inputs,
                                   bool wide) {
    in_type(wide, [&](auto acc) {
      using Acc = decltype(acc);
      linear_gradient(at<const std::int8_t>(grad_output), at<const std::int32_t>(where),
                      at<const std::int8_t>(x), at<Acc>(gradient), at<Acc>(of_bias), n, points,
                      outputs, inputs);
    });
  });
  handle.def("convolution_gradient", [](Handle, Address grad_output, Images x, Layer layer,
                                        Address gradient, Address of_bias, bool wide) {
    in_type(wide, [&](auto acc) {
      using Acc = decltype(acc);
      convolution_gradient(at<const std::int8_t>(grad_output), x.data, at<Acc>(gradient),
                           at<Acc>(of_bias), x.images, x.height, x.width, layer.channels,
                           layer.outputs, layer.high, layer.top);
    });
  });
  handle.def("bp_update", [](Handle, Address weight, Address fraction, Address gradient,
                             std::size_t n, int mu, int bound, bool wide) {
    in_type(wide, [&](auto acc) {
      pseudo_stochastic_update(at<std::int8_t>(weight), at<std::uint8_t>(fraction),
                               at<const decltype(acc)>(gradient), n, mu, bound);
    });
  });
}

void bind_nodes(nb::class_<Handle>& handle) {
  handle.def("node_shift", [](Handle h, Address y, std::size_t n, bool wide, Place place,
                              std::uint32_t tensor, int sparse, std::int64_t by, bool relu) {
    const Place own = place.of(tensor);
    if (wide) {
      return node_shift(*h.kernels.sparse, at<std::int32_t>(y), n, own, sparse, by, relu);
    }
    node_shift(*h.kernels.sparse, at<std::int8_t>(y), n, own, sparse, by, relu);
  });
  handle.def("node_update", [](Handle h, NodeLayer layer, Seen seen, Address differences,
                               Place place, std::uint32_t tensor, int sparse, NodeScales by,
                               int threads) {
    nb::gil_scoped_release release;
    node_update(*h.kernels.products, *h.kernels.sparse, *h.kernels.nodes, layer, seen,
                at<const std::int8_t>(differences), place.of(tensor), sparse, by, threads);
  });
}

void bind_outputs(nb::class_<Handle>& handle) {
  handle.def("output_shift", [](Handle h, Address y, Address on, std::size_t n, int noise,
                                Place place, std::uint32_t tensor, double by, int threads) {
    nb::gil_scoped_release release;
    output_shift(*h.kernels.floats, at<float>(y), at<std::uint8_t>(on), n, static_cast<Noise>(noise),
                 place.of(tensor), static_cast<float>(by), threads);
  });
  handle.def("output_errors", [](Handle h, OutputSeen seen, Address bias, Address e, int noise,
                                 Place place, std::uint32_t tensor, double rate) {
    nb::gil_scoped_release release;
    output_errors(*h.kernels.floats, *h.kernels.outputs, seen, at<float>(bias), at<float>(e),
                  static_cast<Noise>(noise), place.of(tensor), static_cast<float>(rate));
  });
}

void bind_rest(nb::class_<Handle>& handle) {
  handle.def("loss", [](Handle, Address logits, std::size_t n, std::size_t classes, int exponent,
                        Address target, Tables tables, Address each) {
    return total_loss(at<const std::int32_t>(logits), n, classes, exponent,
                      at<const std::int64_t>(target), tables, at<std::int64_t>(each));
  });
  handle.def("loss_error", [](Handle, Address logits, std::size_t n, std::size_t classes,
                              int exponent, Address target, Tables tables, Address words,
                              Address out) {
    error_of_loss(at<const std::int32_t>(logits), n, classes, exponent,
                  at<const std::int64_t>(target), tables, at<const std::int64_t>(words),
                  at<std::int8_t>(out));
  });
  handle.def("transpose", [](Handle, Address x, Address out, std::size_t n, std::size_t rows,
                             std::size_t columns, int threads) {
    nb::gil_scoped_release release;
    transpose(at<const std::int8_t>(x), at<std::int8_t>(out), n, rows, columns, threads);
  });
  handle.def("max_pool", [](Handle, Images x, int channels, int size, Address y, Address where) {
    nb::gil_scoped_release release;
    max_pool(x.data, at<std::int8_t>(y), at<std::uint8_t>(where), x.images, x.height, x.width,
             channels, size);
  });
  handle.def("max_pool_backward", [](Handle, Address grad_output, Address where, Address grad_input,
                                     int n, int height, int width, int channels, int size) {
    nb::gil_scoped_release release;
    max_pool_backward(at<const std::int8_t>(grad_output), at<const std::uint8_t>(where),
                      at<std::int8_t>(grad_input), n, height, width, channels, size);
  });
}

}  // namespace

NB_MODULE(_kernels, m) {
  m.doc() = "Compiled kernels; ezo.kernels.compiled is the interface.";
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const Kernels& kernels : available()) names.emplace_back(kernels.isa);
    return names;
  });
  m.attr("LARGEST_RANK") = kLargestRank;
  nb::class_<Table>(m, "Table");
  nb::class_<Handle> handle(m, "Kernels");
  handle.def("__init__", [](Handle* h, const std::string& isa) { new (h) Handle{pick(isa)}; });
  bind_sweeps(handle);
  bind_layers(handle);
  bind_backward(handle);
  bind_nodes(handle);
  bind_outputs(handle);
  bind_rest(handle);
}

}  // namespace ezo
