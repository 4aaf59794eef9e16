// What the two halves of the Python module share: the choice of an instruction set.
#pragma once
#include <nanobind/nanobind.h>

#include <string>

#include "int8.hpp"
#include "noise.hpp"

namespace ezo {

// The best kernels that this processor can run, or those of the instruction set named.
const Kernels& pick(const std::string& isa);

void bind_int8(nanobind::module_& m);

}  // namespace ezo
