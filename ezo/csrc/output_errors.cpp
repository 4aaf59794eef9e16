// Node perturbation in float32 around the kernels of outputs.cpp: noise, means and threads.
#include <algorithm>
#include <vector>

#include "outputs.hpp"
#include "pool.hpp"

namespace ezo {
namespace {

constexpr double kShiftNanoseconds = 1.0;  // of an output on one core, roughly

}  // namespace

void output_shift(const FloatKernels& kernels, float* y, std::uint8_t* on, std::size_t n, Noise noise,
                  Place at, float by, int threads) {
  const std::size_t groups = (n + kGroup - 1) / kGroup;
  const int workers = Pool::workers(threads, static_cast<double>(n) * kShiftNanoseconds);
  // Torch's own threads work next: ours must not spin beside them.
  Pool::instance().run(workers, Pool::Then::sleep, [&](int t) {
    const std::size_t begin = groups * t / workers * kGroup;
    const std::size_t end = std::min(n, groups * (t + 1) / workers * kGroup);
    if (begin < end) kernels.add(y, on, begin, end, at, noise, by);
  });
}

void output_errors(const FloatKernels& noises, const OutputKernels& kernels, const OutputSeen& seen,
                   float* bias, float* e, Noise noise, Place at, float rate) {
  const std::size_t rows = seen.rows, units = seen.units, inputs = seen.inputs;
  noises.fill({e, Type::float32, 0, nullptr, nullptr}, 0, rows * units, at, noise);
  kernels.scale(e, seen.scale, seen.on, rows, units);
  if (bias == nullptr) return;
  std::vector<float> total(units), along(units, 0.0f), mean(inputs), room(inputs);
  const float n = static_cast<float>(rows);
  kernels.sum(e, rows, units, total.data());
  for (std::size_t u = 0; u < units; ++u) bias[u] -= rate * total[u];
  for (float& x : total) x /= n;
  kernels.subtract(e, total.data(), rows, units);
  kernels.sum(seen.x, rows, inputs, mean.data());
  for (float& x : mean) x /= n;
  for (std::size_t i = 0; i < rows; ++i) {  // the sum of e_i (x_i . mean)
    const float dot = kernels.dot(seen.x + i * inputs, mean.data(), inputs, room.data());
    for (std::size_t u = 0; u < units; ++u) along[u] += e[i * units + u] * dot;
  }
  for (std::size_t u = 0; u < units; ++u) bias[u] += rate * along[u];
}

}  // namespace ezo
