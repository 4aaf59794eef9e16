// Python's view of the kernels, and all that knows of Python. ezo/kernels/compiled.py checks every
// argument before it comes here. Structs come as tuples of their fields (ezo.kernels.Place for one),
// tensors as addresses.
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
#include "sweeps.hpp"

namespace nb = nanobind;

namespace ezo {

// A target whose elements lie in row-major order, as most do: read in half the time.
struct Plain {
  void* data;
  std::size_t n;
  std::uint32_t tensor;
  Type type;
};

// Those of a Layer's fields that say what its kernels meet.
struct Kernel {
  int high, wide, down, across, top, bottom, left, right;
};

}  // namespace ezo

namespace nanobind::detail {

// A struct from a tuple of its fields.
template <class Struct, class... Field>
struct of_tuple {
  NB_TYPE_CASTER(Struct, const_name("tuple"))

  bool from_python(handle from, std::uint8_t flags, cleanup_list* cleanup) noexcept {
    return PyTuple_Check(from.ptr()) && PyTuple_GET_SIZE(from.ptr()) == sizeof...(Field) &&
           fields(from.ptr(), flags, cleanup, std::index_sequence_for<Field...>());
  }

 private:
  template <std::size_t... i>
  bool fields(PyObject* from, std::uint8_t flags, cleanup_list* cleanup,
              std::index_sequence<i...>) noexcept {
    std::tuple<make_caster<Field>...> parts;
    if (!(std::get<i>(parts).from_python(PyTuple_GET_ITEM(from, i), flags, cleanup) && ...)) {
      return false;
    }
    value = make(std::move(std::get<i>(parts).value)...);
    return true;
  }
  // An address stands for a pointer.
  template <class T>
  static T* pointer(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
  }
  static Struct make(Field... field);
};

using Address = std::uintptr_t;
using u32 = std::uint32_t;

#define EZO_STRUCT(Struct, ...)                                                     \
  template <>                                                                       \
  struct type_caster<ezo::Struct> : of_tuple<ezo::Struct, __VA_ARGS__> {};          \
  template <>                                                                       \
  inline ezo::Struct of_tuple<ezo::Struct, __VA_ARGS__>::make

EZO_STRUCT(Place, std::uint64_t, u32, u32)(std::uint64_t seed, u32 step, u32 stream) {
  return {seed, step, stream};
}
EZO_STRUCT(Shift, double, double)(double eps, double times) { return {eps, times}; }
EZO_STRUCT(Update, double, double, double, bool)
(double eps, double eps_minus_rate, double decay, bool restore) {
  return {eps, eps_minus_rate, decay, restore};
}
EZO_STRUCT(Learn, double, double)(double rate, double decay) { return {rate, decay}; }
EZO_STRUCT(Target, Address, std::size_t, u32, int, std::vector<std::int64_t>,
           std::vector<std::int64_t>)
(Address data, std::size_t n, u32 tensor, int type, std::vector<std::int64_t> shape,
 std::vector<std::int64_t> strides) {
  return {pointer<void>(data), n, tensor, static_cast<ezo::Type>(type), std::move(shape),
          std::move(strides)};
}
EZO_STRUCT(Plain, Address, std::size_t, u32, int)
(Address data, std::size_t n, u32 tensor, int type) {
  return {pointer<void>(data), n, tensor, static_cast<ezo::Type>(type)};
}
EZO_STRUCT(Sparse, u32, u32)(u32 threshold, u32 multiplier) { return {threshold, multiplier}; }
EZO_STRUCT(SparseUpdate, int, int, int, int)(int g, int rate, int bound, int restore) {
  return {g, rate, bound, restore};
}
EZO_STRUCT(Weights, Address, Address, std::size_t, u32)
(Address data, Address fraction, std::size_t n, u32 tensor) {
  return {pointer<std::int8_t>(data), pointer<std::uint8_t>(fraction), n, tensor};
}
EZO_STRUCT(Images, Address, int, int, int)(Address data, int images, int height, int width) {
  return {pointer<const std::int8_t>(data), images, height, width};
}
EZO_STRUCT(Kernel, int, int, int, int, int, int, int, int)
(int high, int wide, int down, int across, int top, int bottom, int left, int right) {
  return {high, wide, down, across, top, bottom, left, right};
}
EZO_STRUCT(Layer, int, int, ezo::Kernel, int, Address, Address, int)
(int channels, int outputs, ezo::Kernel k, int groups, Address weight, Address bias, int bias_left) {
  return {channels, outputs, k.high, k.wide, k.down, k.across, k.top, k.bottom, k.left, k.right,
          groups, pointer<const std::int8_t>(weight), pointer<const std::int8_t>(bias), bias_left};
}
EZO_STRUCT(After, bool, int, bool, int)(bool relu, int pool, bool over_points, int shift) {
  return {relu, pool, over_points, shift};
}
EZO_STRUCT(Tables, Address, Address)(Address exp2, Address log2) {
  return {pointer<const std::int64_t>(exp2), pointer<const std::int64_t>(log2)};
}
EZO_STRUCT(Scale, std::int64_t, int)(std::int64_t times, int shift) { return {times, shift}; }
EZO_STRUCT(NodeScales, ezo::Scale, ezo::Scale, ezo::Scale)
(ezo::Scale weight, ezo::Scale bias, ezo::Scale mean) { return {weight, bias, mean}; }
EZO_STRUCT(NodeLayer, Address, Address, Address, Address, std::size_t, std::size_t)
(Address weight, Address fraction, Address bias, Address bias_fraction, std::size_t outputs,
 std::size_t inputs) {
  return {pointer<std::int8_t>(weight), pointer<std::uint8_t>(fraction), pointer<std::int8_t>(bias),
          pointer<std::uint8_t>(bias_fraction), outputs, inputs};
}
EZO_STRUCT(Seen, Address, Address, Address, std::size_t, std::size_t)
(Address x, Address y, Address where, std::size_t n, std::size_t points) {
  return {pointer<const std::int8_t>(x), pointer<const std::int8_t>(y),
          pointer<const std::int32_t>(where), n, points};
}

EZO_STRUCT(OutputSeen, Address, Address, Address, std::size_t, std::size_t, std::size_t)
(Address x, Address on, Address scale, std::size_t rows, std::size_t inputs, std::size_t units) {
  return {pointer<const float>(x), pointer<const std::uint8_t>(on), pointer<const float>(scale), rows,
          inputs, units};
}

}  // namespace nanobind::detail

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
