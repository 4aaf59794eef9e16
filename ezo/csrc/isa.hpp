// The kernels of one instruction set, and the choice among those that the processor can run.
#pragma once
#include <string>
#include <vector>

#include "nodes.hpp"
#include "noise.hpp"
#include "outputs.hpp"
#include "product.hpp"

namespace ezo {

struct Kernels {
  const char* isa;
  const FloatKernels* floats;
  const SparseKernels* sparse;
  const ProductKernels* products;
  const NodeKernels* nodes;
  const OutputKernels* outputs;
};

// Those that this processor can run, the best first.
const std::vector<Kernels>& available();

// The best, or those of the instruction set named.
const Kernels& pick(const std::string& isa);

}  // namespace ezo
