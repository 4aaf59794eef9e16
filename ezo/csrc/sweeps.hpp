// Sweeps over tables of tensors, shared among threads.
#pragma once
#include <cstdint>
#include <vector>

#include "isa.hpp"

namespace ezo {

// A tensor of floats, and its number in the noise stream.
struct Target {
  void* data;
  std::size_t n;
  std::uint32_t tensor;
  Type type;
  std::vector<std::int64_t> shape, strides;  // empty where elements lie in row-major order
};

void fill(const Kernels&, const std::vector<Target>&, Noise, Place, int threads);
void shift(const Kernels&, const std::vector<Target>&, Noise, Place, Shift, int threads);
void update(const Kernels&, const std::vector<Target>&, Noise, Place, Update, int threads);
void learn(const Kernels&, const std::vector<Target>&, Noise, Place, Learn, int threads);

// int8 weights, and their fractions or null.
struct Weights {
  std::int8_t* data;
  std::uint8_t* fraction;
  std::size_t n;
  std::uint32_t tensor;
};

void sparse_shift(const Kernels&, const std::vector<Weights>&, Sparse, Place, int times,
                  int threads);
void sparse_update(const Kernels&, const std::vector<Weights>&, Sparse, Place, SparseUpdate,
                   int threads);

// The first n words of tensor 0, each in an int64.
void words(const Kernels&, Place, std::int64_t* out, std::size_t n);

}  // namespace ezo
