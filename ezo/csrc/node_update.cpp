// Node perturbation around the kernels of nodes.cpp: noise, errors, tiles of units and threads.
//
// Index letters: i example, o output (unit), j input.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "memory.hpp"
#include "nodes.hpp"
#include "pool.hpp"
#include "rounding.hpp"

namespace ezo {
namespace {

constexpr std::size_t kUnits = 14;             // a tile's, whose gradients are held at once
constexpr std::size_t kSigns = 8 * kGroup;     // of one group of words
constexpr double kUpdateNanoseconds = 1.0;     // of a weight on one core, roughly
constexpr double kMultiplyNanoseconds = 0.05;  // of a multiply-add
constexpr int kMeanBits = 8;                   // of an input's mean, below its last place
constexpr int kAlongBits = 16;                 // of what lies along the mean, dropped
constexpr std::int64_t kLargestAlong = std::int64_t{1} << 38;

// apply(i, n) for each element i, n its noise: -1, 0 or 1, as four bits of a word say.
template <class Apply>
void each_sign(const SparseKernels& kernels, std::size_t n, int sparse, Place at, Apply apply) {
  const std::uint32_t mask = (1u << sparse) - 1;
  std::vector<std::uint32_t> words(kGroup);
  for (std::size_t first = 0; first < n; first += kSigns) {
    kernels.words(words.data(), first / kSigns, first / kSigns + 1, at);
    const std::size_t last = std::min(n, first + kSigns);
    for (std::size_t i = first; i < last; ++i) {
      const std::uint32_t bits = words[(i - first) / 8] >> (i % 8 * 4) & 15;
      apply(i, (bits >> 1 & mask) != 0 ? 0 : 1 - 2 * static_cast<int>(bits & 1));
    }
  }
}

std::int64_t magnitude(std::int64_t x) { return x < 0 ? -x : x; }

// x / d, rounded to nearest, halves away from zero; d is positive.
std::int64_t nearest_quotient(std::int64_t x, std::int64_t d) {
  const std::int64_t q = (2 * magnitude(x) + d) / (2 * d);
  return x < 0 ? -q : q;
}

// Errors (outputs, n), where `centred` less each unit's mean, and their sums over examples before.
struct Errors {
  std::vector<std::int8_t> units;
  std::vector<std::int32_t> sums;
};

Errors errors_of(const SparseKernels& kernels, const Seen& seen, std::size_t outputs,
                 const std::int8_t* differences, Place at, int sparse, bool centred) {
  const std::size_t n = seen.n;
  Errors found{std::vector<std::int8_t>(outputs * n), std::vector<std::int32_t>(outputs, 0)};
  each_sign(kernels, n * outputs, sparse, at, [&](std::size_t k, int sign) {
    const std::size_t i = k / outputs, o = k % outputs;
    const int e = seen.y != nullptr && seen.y[k] <= 0 ? 0 : sign * differences[i];
    found.units[o * n + i] = static_cast<std::int8_t>(e);
    found.sums[o] += e;
  });
  for (std::size_t o = 0; centred && o < outputs; ++o) {
    const int mean = static_cast<int>(nearest_quotient(found.sums[o], static_cast<int>(n)));
    for (std::size_t i = 0; i < n; ++i) {
      std::int8_t& e = found.units[o * n + i];
      e = static_cast<std::int8_t>(std::clamp(e - mean, -127, 127));
    }
  }
  return found;
}

std::int32_t mean_of(std::int64_t sum, std::size_t n) {
  return static_cast<std::int32_t>(nearest_quotient(sum * (1 << kMeanBits), static_cast<std::int64_t>(n)));
}

// The gradients of a unit's weights (inputs) and the means of its inputs.
struct Unit {
  const std::int32_t* gradient;
  const std::int32_t* mean;
};

// Where all units share their inputs: a product of a tile of units' errors with them.
class Shared {
 public:
  Shared(const ProductKernels& kernels, const Seen& seen, std::size_t inputs)
      : kernels_(kernels.any), n_(seen.n), inputs_(inputs), turned_(inputs * seen.n), mean_(inputs) {
    std::vector<std::int64_t> sums(inputs, 0);
    for (std::size_t i = 0; i < n_; ++i) {
      for (std::size_t j = 0; j < inputs; ++j) {
        turned_[j * n_ + i] = seen.x[i * inputs + j];
        sums[j] += seen.x[i * inputs + j];
      }
    }
    for (std::size_t j = 0; j < inputs; ++j) mean_[j] = mean_of(sums[j], n_);
    layer_ = Layer::square(static_cast<int>(n_), static_cast<int>(inputs), 1, 0, turned_.data(),
                           nullptr, 0);
    sizes_ = kernels_.sizes(layer_, 1, kUnits);
    packed_ = allocate(sizes_.packed);
    const std::vector<std::int32_t> none(inputs, 0);
    kernels_.pack(layer_, none.data(), packed_.get());
  }

  class Worker {
   public:
    explicit Worker(const Shared& of)
        : of_(of), scratch_(allocate(of.sizes_.scratch)), gradients_(kUnits * of.inputs_) {}
    void tile(const std::int8_t* errors, std::size_t, std::size_t units) {
      const After after{false, 1, false, -1};
      of_.kernels_.image(of_.layer_, after, of_.packed_.get(), scratch_.get(), errors, 1,
                         static_cast<int>(units), gradients_.data(), nullptr, 0);
    }
    Unit unit(std::size_t u) const { return {gradients_.data() + u * of_.inputs_, of_.mean_.data()}; }

   private:
    const Shared& of_;
    Memory scratch_;
    std::vector<std::int32_t> gradients_;
  };

 private:
  const Products& kernels_;
  std::size_t n_, inputs_;
  std::vector<std::int8_t> turned_;  // (inputs, n)
  std::vector<std::int32_t> mean_;
  Layer layer_;
  Sizes sizes_;
  Memory packed_;
};

// Where each unit learns from the points that won it.
class Won {
 public:
  Won(const NodeKernels& kernels, const Seen& seen, std::size_t outputs, std::size_t inputs)
      : kernels_(kernels), seen_(seen), outputs_(outputs), inputs_(inputs) {}

  class Worker {
   public:
    explicit Worker(const Won& of) : of_(of), gradients_(kUnits * of.inputs_), means_(gradients_) {}
    void tile(const std::int8_t* errors, std::size_t first, std::size_t units) {
      const Seen& seen = of_.seen_;
      const std::size_t k = of_.inputs_;
      std::fill(gradients_.begin(), gradients_.end(), 0);
      std::fill(means_.begin(), means_.end(), 0);
      for (std::size_t u = 0; u < units; ++u) {
        for (std::size_t i = 0; i < seen.n; ++i) {
          const std::size_t point = seen.where[i * of_.outputs_ + first + u];
          of_.kernels_.add(gradients_.data() + u * k, means_.data() + u * k, errors[u * seen.n + i],
                           seen.x + (i * seen.points + point) * k, k);
        }
        for (std::size_t j = u * k; j < (u + 1) * k; ++j) means_[j] = mean_of(means_[j], seen.n);
      }
    }
    Unit unit(std::size_t u) const {
      return {gradients_.data() + u * of_.inputs_, means_.data() + u * of_.inputs_};
    }

   private:
    const Won& of_;
    std::vector<std::int32_t> gradients_, means_;
  };

 private:
  const NodeKernels& kernels_;
  Seen seen_;
  std::size_t outputs_, inputs_;
};

std::int64_t scaled(std::int64_t x, Scale by) {
  const std::int64_t m = pseudo_stochastic(magnitude(x) * by.times, by.shift);
  return x < 0 ? -m : m;
}

// What of a unit's gradient lies along the mean of its inputs: x / 2^16, to nearest.
std::int64_t along(std::int64_t x) {
  const std::int64_t m = (magnitude(x) + (std::int64_t{1} << (kAlongBits - 1))) >> kAlongBits;
  return std::min(m, kLargestAlong) * (x < 0 ? -1 : 1);
}

void move(std::int8_t& weight, std::uint8_t* fraction, std::int64_t by) {
  if (fraction == nullptr) {
    weight = static_cast<std::int8_t>(std::clamp<std::int64_t>(weight - by, -127, 127));
    return;
  }
  const std::int64_t fine = 256 * std::int64_t{weight} + *fraction - by;
  const std::int64_t held = std::clamp<std::int64_t>(fine, -256 * 127, 256 * 127 + 255);
  weight = static_cast<std::int8_t>(held >> 8);
  *fraction = static_cast<std::uint8_t>(held & 255);
}

template <class Source>
void learn(const NodeKernels& kernels, const NodeLayer& layer, const Errors& errors, std::size_t n,
           const NodeScales& by, int threads, const Source& source) {
  const std::size_t k = layer.inputs, tiles = (layer.outputs + kUnits - 1) / kUnits;
  const double work = static_cast<double>(layer.outputs * k) *
                      (kUpdateNanoseconds + kMultiplyNanoseconds * static_cast<double>(n));
  const int workers = Pool::workers(threads, work, static_cast<int>(tiles));
  Pool::instance().run(workers, Pool::Then::spin, [&](int t) {
    typename Source::Worker worker(source);
    for (std::size_t tile = tiles * t / workers; tile < tiles * (t + 1) / workers; ++tile) {
      const std::size_t first = tile * kUnits, units = std::min(kUnits, layer.outputs - first);
      worker.tile(errors.units.data() + first * n, first, units);
      for (std::size_t u = 0, o = first; u < units; ++u, ++o) {
        const Unit unit = worker.unit(u);
        std::uint8_t* fraction = layer.fraction == nullptr ? nullptr : layer.fraction + o * k;
        kernels.update(layer.weight + o * k, fraction, unit.gradient, k, by.weight);
        if (layer.bias == nullptr) continue;
        const std::int64_t mean = along(kernels.dot(unit.gradient, unit.mean, k));
        move(layer.bias[o], layer.bias_fraction == nullptr ? nullptr : layer.bias_fraction + o,
             scaled(errors.sums[o], by.bias) - scaled(mean, by.mean));
      }
    }
  });
}

}  // namespace

template <class Number>
void node_shift(const SparseKernels& kernels, Number* y, std::size_t n, Place at, int sparse,
                std::int64_t by, bool relu) {
  const std::int64_t most = std::min<std::int64_t>(std::numeric_limits<Number>::max(), INT32_MAX);
  const std::int64_t least = relu ? 0 : -most;
  each_sign(kernels, n, sparse, at, [&](std::size_t i, int sign) {
    y[i] = static_cast<Number>(std::clamp(y[i] + sign * by, least, most));
  });
}

template void node_shift(const SparseKernels&, std::int8_t*, std::size_t, Place, int, std::int64_t,
                         bool);
template void node_shift(const SparseKernels&, std::int32_t*, std::size_t, Place, int,
                         std::int64_t, bool);

void node_update(const ProductKernels& products, const SparseKernels& noise,
                 const NodeKernels& kernels, const NodeLayer& layer, const Seen& seen,
                 const std::int8_t* differences, Place at, int sparse, const NodeScales& by,
                 int threads) {
  const bool centred = layer.bias != nullptr;
  const Errors errors = errors_of(noise, seen, layer.outputs, differences, at, sparse, centred);
  if (seen.where == nullptr) {
    learn(kernels, layer, errors, seen.n, by, threads, Shared(products, seen, layer.inputs));
  } else {
    learn(kernels, layer, errors, seen.n, by, threads,
          Won(kernels, seen, layer.outputs, layer.inputs));
  }
}

}  // namespace ezo
