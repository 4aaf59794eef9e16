#include "sweeps.hpp"

#include <algorithm>

#include "pool.hpp"

namespace ezo {
namespace {

// Roughly, on one core: they decide how many threads are worth their cost.
constexpr double kFloatNanoseconds = 0.5, kSparseNanoseconds = 0.6;

// run(tensor, begin, end) over all tensors, each cut into a share a thread at borders of groups.
template <class Tensor, class Run>
void share(const std::vector<Tensor>& tensors, std::size_t group, double nanoseconds, int threads,
           Pool::Then then, Run run) {
  std::size_t total = 0;
  for (const Tensor& tensor : tensors) total += tensor.n;
  const int workers = Pool::workers(threads, static_cast<double>(total) * nanoseconds);
  Pool::instance().run(workers, then, [&](int t) {
    for (const Tensor& tensor : tensors) {
      const std::size_t groups = (tensor.n + group - 1) / group;
      const std::size_t begin = groups * t / workers * group;
      const std::size_t end = std::min(tensor.n, groups * (t + 1) / workers * group);
      if (begin < end) run(tensor, begin, end);
    }
  });
}

template <class Run>
void sweep(const std::vector<Target>& tensors, int threads, Run run) {
  // Torch's own threads work next: ours must not spin beside them.
  share(tensors, kGroup, kFloatNanoseconds, threads, Pool::Then::sleep,
        [&](const Target& target, std::size_t begin, std::size_t end) {
          const View view{target.data, target.type, static_cast<int>(target.shape.size()),
                          target.shape.data(), target.strides.data()};
          run(view, begin, end, target.tensor);
        });
}

}  // namespace

void fill(const Kernels& kernels, const std::vector<Target>& tensors, Noise noise, Place place,
          int threads) {
  sweep(tensors, threads, [&](const View& view, std::size_t begin, std::size_t end, auto tensor) {
    kernels.floats->fill(view, begin, end, place.of(tensor), noise);
  });
}

void shift(const Kernels& kernels, const std::vector<Target>& tensors, Noise noise, Place place,
           Shift how, int threads) {
  sweep(tensors, threads, [&](const View& view, std::size_t begin, std::size_t end, auto tensor) {
    kernels.floats->shift(view, begin, end, place.of(tensor), noise, how);
  });
}

void update(const Kernels& kernels, const std::vector<Target>& tensors, Noise noise, Place place,
            Update how, int threads) {
  sweep(tensors, threads, [&](const View& view, std::size_t begin, std::size_t end, auto tensor) {
    kernels.floats->update(view, begin, end, place.of(tensor), noise, how);
  });
}

void learn(const Kernels& kernels, const std::vector<Target>& tensors, Noise noise, Place place,
           Learn how, int threads) {
  sweep(tensors, threads, [&](const View& view, std::size_t begin, std::size_t end, auto tensor) {
    kernels.floats->learn(view, begin, end, place.of(tensor), noise, how);
  });
}

void sparse_shift(const Kernels& kernels, const std::vector<Weights>& tensors, Sparse noise,
                  Place place, int times, int threads) {
  share(tensors, kSparseGroup, kSparseNanoseconds, threads, Pool::Then::spin,
        [&](const Weights& w, std::size_t begin, std::size_t end) {
          kernels.sparse->shift(w.data, begin, end, place.of(w.tensor), noise, times);
        });
}

void sparse_update(const Kernels& kernels, const std::vector<Weights>& tensors, Sparse noise,
                   Place place, SparseUpdate how, int threads) {
  share(tensors, kSparseGroup, kSparseNanoseconds, threads, Pool::Then::spin,
        [&](const Weights& w, std::size_t begin, std::size_t end) {
          kernels.sparse->update(w.data, w.fraction, begin, end, place.of(w.tensor), noise, how);
        });
}

void words(const Kernels& kernels, Place place, std::int64_t* out, std::size_t n) {
  std::uint32_t group[kGroup];
  for (std::size_t first = 0; first < n; first += kGroup) {
    kernels.sparse->words(group, first / kGroup, first / kGroup + 1, place);
    std::copy_n(group, std::min(kGroup, n - first), out + first);
  }
}

}  // namespace ezo
