// Structs from the tuples of their fields that Python gives (ezo.kernels.Place for one), tensors as
// addresses.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "integers.hpp"
#include "nodes.hpp"
#include "outputs.hpp"
#include "sweeps.hpp"

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
    return PyTuple_Check(from.ptr()) && NB_TUPLE_GET_SIZE(from.ptr()) == sizeof...(Field) &&
           fields(from.ptr(), flags, cleanup, std::index_sequence_for<Field...>());
  }

 private:
  template <std::size_t... i>
  bool fields(PyObject* from, std::uint8_t flags, cleanup_list* cleanup,
              std::index_sequence<i...>) noexcept {
    std::tuple<make_caster<Field>...> parts;
    if (!(std::get<i>(parts).from_python(NB_TUPLE_GET_ITEM(from, i), flags, cleanup) && ...)) {
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
