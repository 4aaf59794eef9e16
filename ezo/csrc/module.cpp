// Python's view of the kernels: picks the best instruction set the processor has, shares large
// sweeps among threads. ezo/perturb.py checks every argument before it comes here.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "module.hpp"

namespace nb = nanobind;

namespace ezo {

namespace portable { extern const Kernels kernels; }
#ifdef EZO_X86
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
namespace avx512vnni { extern const Kernels kernels; }
#endif

namespace {

std::vector<const Kernels*> available() {
  std::vector<const Kernels*> found;
#ifdef EZO_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("bmi2")) {
    if (__builtin_cpu_supports("avx512vnni")) found.push_back(&avx512vnni::kernels);
    found.push_back(&avx512::kernels);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2")) {
    found.push_back(&avx2::kernels);
  }
#endif
  found.push_back(&portable::kernels);
  return found;
}

}  // namespace

const Kernels& pick(const std::string& isa) {
  static const std::vector<const Kernels*> found = available();
  if (isa.empty()) return *found.front();
  for (const Kernels* k : found) {
    if (isa == k->isa) return *k;
  }
  throw std::invalid_argument("no kernels for instruction set '" + isa + "' on this processor");
}

namespace {

// (address of float32 data, elements, tensor number)
using Tensor = std::tuple<std::uintptr_t, std::size_t, std::uint32_t>;

// Below this many elements a second thread costs more than it saves.
constexpr std::size_t kWorthAThread = std::size_t{1} << 17;

// run(p, begin, end, tensor number) over all tensors, cut into equal shares at group borders.
template <class Run>
void share(const std::vector<Tensor>& tensors, int threads, Run run) {
  std::size_t total = 0;
  for (const auto& [address, n, tensor] : tensors) total += n;
  const std::size_t workers =
      std::max<std::size_t>(1, std::min<std::size_t>(threads, total / kWorthAThread));
  auto work = [&](std::size_t first, std::size_t last) {
    std::size_t start = 0;  // element number of this tensor's first element
    for (const auto& [address, n, tensor] : tensors) {
      const std::size_t lo = std::max(first, start), hi = std::min(last, start + n);
      auto group_start = [](std::size_t i) { return i / kGroup * kGroup; };
      if (lo < hi) {
        // A group belongs to the share that holds its first element.
        const std::size_t begin = lo == start ? 0 : group_start(lo - start + kGroup - 1);
        const std::size_t end =
            hi == start + n ? n : std::min(n, group_start(hi - start + kGroup - 1));
        if (begin < end) run(reinterpret_cast<float*>(address), begin, end, tensor);
      }
      start += n;
    }
  };
  std::vector<std::thread> helpers;
  for (std::size_t t = 1; t < workers; ++t) {
    helpers.emplace_back(work, total * t / workers, total * (t + 1) / workers);
  }
  work(0, total / workers);
  for (auto& helper : helpers) helper.join();
}

void fill(const std::vector<Tensor>& tensors, std::uint64_t seed, std::uint32_t step,
          std::uint32_t stream, int noise, int threads, const std::string& isa) {
  const Kernels& k = pick(isa);
  nb::gil_scoped_release release;
  share(tensors, threads, [&](float* p, std::size_t begin, std::size_t end, std::uint32_t tensor) {
    k.fill(p, begin, end, {seed, tensor, step, stream}, static_cast<Noise>(noise));
  });
}

void shift(const std::vector<Tensor>& tensors, std::uint64_t seed, std::uint32_t step,
           std::uint32_t stream, int noise, int threads, const std::string& isa, float eps,
           float times) {
  const Kernels& k = pick(isa);
  nb::gil_scoped_release release;
  share(tensors, threads, [&](float* p, std::size_t begin, std::size_t end, std::uint32_t tensor) {
    k.shift(p, begin, end, {seed, tensor, step, stream}, static_cast<Noise>(noise), {eps, times});
  });
}

void update(const std::vector<Tensor>& tensors, std::uint64_t seed, std::uint32_t step,
            std::uint32_t stream, int noise, int threads, const std::string& isa, float eps,
            float eps_minus_rate, float decay, bool restore) {
  const Kernels& k = pick(isa);
  nb::gil_scoped_release release;
  share(tensors, threads, [&](float* p, std::size_t begin, std::size_t end, std::uint32_t tensor) {
    k.update(p, begin, end, {seed, tensor, step, stream}, static_cast<Noise>(noise),
             {eps, eps_minus_rate, decay, restore});
  });
}

}  // namespace

NB_MODULE(_kernels, m) {
  m.doc() = "Compiled sweeps and integer products; ezo.perturb and ezo.int8.fast are the interface.";
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const Kernels* k : available()) names.emplace_back(k->isa);
    return names;
  });
  m.def("fill", &fill);
  m.def("shift", &shift);
  m.def("update", &update);
  bind_int8(m);
}

}  // namespace ezo
