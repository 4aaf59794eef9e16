// Run under the sanitizers: products of random layers beside plain loops, and the sweeps and the
// small work on odd sizes, in buffers that end where the data do.
#include <algorithm>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "integers.hpp"
#include "nodes.hpp"
#include "noise.hpp"
#include "sweeps.hpp"

namespace ezo::checked {
extern const ProductKernels product_kernels;
extern const FloatKernels float_kernels;
extern const SparseKernels sparse_kernels;
extern const NodeKernels node_kernels;
}  // namespace ezo::checked

using namespace ezo;

static std::uint32_t state = 1;
static int draw(int low, int high) {  // inclusive
  state = state * 1664525u + 1013904223u;
  return low + static_cast<int>((state >> 8) % static_cast<std::uint32_t>(high - low + 1));
}

static std::vector<std::int8_t> numbers(std::size_t n, int low) {
  std::vector<std::int8_t> all(n);
  const bool extreme = draw(0, 3) == 0;
  for (auto& x : all) x = extreme ? (draw(0, 1) ? 127 : low) : draw(low, 127);
  return all;
}

static int round_half_up(std::int64_t x, int shift) {
  std::int64_t m = x < 0 ? -x : x;
  if (shift > 0) m = (m + (std::int64_t{1} << (shift - 1))) >> shift;
  if (m > 127) m = 127;
  return static_cast<int>(x < 0 ? -m : m);
}

static void fail(const char* what, int trial) {
  std::printf("trial %d: %s differs\n", trial, what);
  std::exit(1);
}

// Several images, each the same, with threads and tiles, against what the kernel gave for one.
static void check_driver(int trial, const Layer& layer, bool relu, int pool, bool points,
                         const std::vector<std::int8_t>& x, int height, int width,
                         const std::vector<std::int8_t>& wanted, int shift) {
  if (shift < 0) return;
  Layer plain = layer;
  plain.bias = nullptr;
  const int images = draw(1, 3);
  std::vector<std::int8_t> all, found(images * wanted.size()), one(wanted.size());
  for (int i = 0; i < images; ++i) all.insert(all.end(), x.begin(), x.end());
  std::vector<std::int32_t> where(images * layer.outputs), first(layer.outputs);
  const After after{relu, pool, points, shift};
  product(checked::product_kernels, {x.data(), 1, height, width}, plain, after, one.data(),
          first.data(), 1);
  product(checked::product_kernels, {all.data(), images, height, width}, plain, after, found.data(),
          where.data(), 2);
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (found[i] != one[i % one.size()]) fail("an image among others", trial);
  }
}

// Sums of two tensors and means of blocks, one number at a time.
static void check_sums(int trial) {
  const std::size_t n = draw(1, 100);
  const int left = draw(-3, 16), other = draw(-3, 16), shift = draw(0, 20);
  const bool relu = draw(0, 1);
  const auto a = numbers(n, -127), b = numbers(n, -127);
  auto moved = [](std::int64_t m, int by) { return by < 0 ? round_half_up(m, -by) : m * (1 << by); };
  std::vector<std::int8_t> out(n);
  std::int64_t largest = 0;
  const auto found = checked::product_kernels.add(a.data(), b.data(), out.data(), n, left, other,
                                                  relu, shift);
  for (std::size_t i = 0; i < n; ++i) {
    const std::int64_t sum = moved(a[i], left) + moved(b[i], other);
    largest = std::max(largest, sum < 0 ? -sum : sum);
    const std::int64_t wanted = round_half_up(sum, shift);
    if (out[i] != (relu ? std::max<std::int64_t>(wanted, 0) : wanted)) fail("a sum", trial);
  }
  if (found != largest) fail("the largest sum of two", trial);
}

static int narrow_trials = 0;

static void check_product(int trial) {
  const bool points = draw(0, 4) == 0;
  const bool depthwise = !points && draw(0, 3) == 0;
  const bool few = !points && !depthwise && draw(0, 1);  // so that `narrow` may serve
  const int o = draw(1, few ? 8 : 40), c = depthwise ? 1 : draw(1, few ? 2 : 20);
  const int groups = depthwise ? o : 1;
  const int in = c * groups;  // channels of x
  const int k = points ? 1 : draw(1, 5), kw = points ? 1 : draw(1, 5);
  const int top = points ? 0 : draw(0, k - 1), bottom = points ? 0 : draw(0, k - 1);
  const int left = points ? 0 : draw(0, kw - 1), right = points ? 0 : draw(0, kw - 1);
  const int down = points ? 1 : draw(1, 3), across = points ? 1 : draw(1, 3);
  const int height = points ? 1 : draw(k, k + 6), width = draw(kw, kw + 33);
  const int pool = points ? 1 : draw(1, 3);
  const bool non_negative = draw(0, 1), relu = draw(0, 1);
  const auto x = numbers(static_cast<std::size_t>(in) * height * width, non_negative ? 0 : -127);
  const auto w = numbers(static_cast<std::size_t>(o) * c * k * kw, -127);
  std::vector<std::int32_t> bias(o);
  for (auto& b : bias) b = draw(-5000, 5000);
  const int shift = draw(-1, 12);

  const int rows = (height + top + bottom - k) / down + 1;
  const int columns = (width + left + right - kw) / across + 1;
  std::vector<std::int64_t> sums(static_cast<std::size_t>(rows) * columns * o);
  std::int64_t largest = 0;
  for (int y = 0; y < rows; ++y) {
    for (int p = 0; p < columns; ++p) {
      for (int q = 0; q < o; ++q) {
        std::int64_t sum = bias[q];
        for (int j = 0; j < c; ++j) {
          for (int dy = 0; dy < k; ++dy) {
            for (int dx = 0; dx < kw; ++dx) {
              const int yy = y * down + dy - top, xx = p * across + dx - left;
              if (yy < 0 || yy >= height || xx < 0 || xx >= width) continue;
              const int from = depthwise ? q : j;
              sum += x[(yy * width + xx) * in + from] * w[((q * c + j) * k + dy) * kw + dx];
            }
          }
        }
        sums[(y * columns + p) * o + q] = sum;
        largest = std::max(largest, sum < 0 ? -sum : sum);
      }
    }
  }
  const int tall = points ? 1 : rows / pool, wide = points ? 1 : columns / pool;
  std::vector<std::int64_t> wanted(static_cast<std::size_t>(tall) * wide * o);
  for (int y = 0; y < tall; ++y) {
    for (int p = 0; p < wide; ++p) {
      for (int q = 0; q < o; ++q) {
        std::int64_t most = relu ? 0 : INT64_MIN;
        for (int dy = 0; dy < (points ? rows : pool); ++dy) {
          for (int dx = 0; dx < (points ? columns : pool); ++dx) {
            most = std::max(most, sums[((y * pool + dy) * columns + p * pool + dx) * o + q]);
          }
        }
        wanted[(y * wide + p) * o + q] = most;
      }
    }
  }
  if (tall == 0 || wide == 0) return;
  const ProductKernels& kernels = checked::product_kernels;
  const Layer layer{c,   o,      k,    kw,    down,   across,   top,
                    bottom, left, right, groups, w.data(), nullptr, 0};
  const NarrowProducts& narrow = kernels.narrow;
  const bool lanes = draw(0, 3) && narrow.serves(layer, {relu, pool, points, shift}, height, width);
  narrow_trials += lanes;
  const Products& products = depthwise      ? kernels.depthwise
                             : lanes        ? non_negative ? narrow.non_negative : narrow.any
                             : non_negative ? kernels.non_negative
                                            : kernels.any;
  const Sizes sizes = products.sizes(layer, height, width);
  auto room = [](std::size_t bytes) { return std::aligned_alloc(64, (bytes + 63) / 64 * 64); };
  void *packed = room(sizes.packed), *scratch = room(sizes.scratch);
  products.pack(layer, bias.data(), packed);
  std::vector<std::int32_t> whole(shift < 0 ? wanted.size() : 0, relu ? 0 : INT32_MIN);
  std::vector<std::int8_t> small(shift < 0 ? 0 : wanted.size(), -128);
  std::vector<std::int32_t> where(points && shift >= 0 ? o : 0);
  void* out = shift < 0 ? static_cast<void*>(whole.data()) : static_cast<void*>(small.data());
  const auto found = products.image(layer, {relu, pool, points, shift}, packed, scratch, x.data(),
                                    height, width, out, where.data(), 1000);
  if (found != largest) fail("the largest sum", trial);
  for (std::size_t q = 0; q < where.size(); ++q) {
    auto value = [&](int p) {
      return round_half_up(std::max<std::int64_t>(sums[p * o + q], relu ? 0 : INT64_MIN), shift);
    };
    int first = 0;
    for (int p = 1; p < width; ++p) first = value(p) > value(first) ? p : first;
    if (where[q] != 1000 + first) fail("the point of a maximum", trial);
  }
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (shift < 0 ? whole[i] != wanted[i] : small[i] != round_half_up(wanted[i], shift)) {
      fail("the product", trial);
    }
  }
  std::free(packed);
  std::free(scratch);
  check_driver(trial, layer, relu, pool, points, x, height, width, small, shift);
}

// (rows, columns), or transposed, of which only every `apart`-th number is the tensor's.
template <class Number>
static void check_floats(int trial, Type type, Number beside, Number half) {
  const std::int64_t rows = draw(1, 40), columns = draw(1, 40), apart = draw(1, 2);
  const bool turned = draw(0, 1), plain = apart == 1 && !turned;
  const Kernels kernels{"checked", &checked::float_kernels, &checked::sparse_kernels,
                        &checked::product_kernels};
  std::vector<Number> q((rows * columns - 1) * apart + 1, beside);
  for (std::size_t i = 0; i < q.size(); i += apart) q[i] = half;
  Target target{q.data(), static_cast<std::size_t>(rows * columns), 3, type, {}, {}};
  if (!plain) {
    target.shape = {rows, columns};
    target.strides = turned ? std::vector<std::int64_t>{apart, rows * apart}
                            : std::vector<std::int64_t>{columns * apart, apart};
  }
  const Place at{7, 5, 1};
  const int threads = draw(1, 2);
  shift(kernels, {target}, Noise::gaussian, at, {0.01, -1.0}, threads);
  update(kernels, {target}, Noise::gaussian, at, {0.01, 0.01, 0.0, true}, threads);
  const bool exact = type == Type::float32 || type == Type::float64;
  for (std::size_t i = 0; i < q.size(); ++i) {
    if (i % apart ? q[i] != beside : exact && q[i] != half) fail("a float weight", trial);
  }
}

static void check_sweeps(int trial) {
  const Place at{0x0123456789ABCDEFull, 5, 7, 3};
  const int r_max = draw(1, 63);
  const std::uint32_t threshold = draw(0, 20000);
  const Sparse how{threshold, ((static_cast<std::uint32_t>(r_max) << 16) - 1) / (32768 - threshold - 1)};
  std::vector<std::int8_t> p(draw(1, 1500));
  for (auto& x : p) x = draw(r_max - 127, 127 - r_max);
  const auto before = p;
  const auto& k = checked::sparse_kernels;
  k.shift(p.data(), 0, p.size(), at, how, 1);
  k.shift(p.data(), 0, p.size(), at, how, -2);
  k.update(p.data(), nullptr, 0, p.size(), at, how, {0, 1 << 16, 127 - r_max, true});
  if (p != before) fail("a weight that was perturbed and restored", trial);
  std::vector<std::uint8_t> fraction(p.size(), 128);
  for (std::uint8_t* also : {static_cast<std::uint8_t*>(nullptr), fraction.data()}) {
    k.update(p.data(), also, 0, p.size(), at, how,
                    {1, draw(0, 1 << 16), 127 - r_max, false});
  }
  check_floats<float>(trial, Type::float32, 0.5f, 0.5f);
  check_floats<double>(trial, Type::float64, 0.5, 0.5);
  check_floats<std::uint16_t>(trial, Type::float16, 0, 0x3800);  // all but a last bit of 0.5
  check_floats<std::uint16_t>(trial, Type::bfloat16, 0, 0x3F00);
}

static void check_tail(int trial) {
  const std::size_t n = draw(1, 9), outputs = draw(1, 9), inputs = draw(1, 9);
  const auto grad_output = numbers(n * outputs, -127), x = numbers(n * inputs, -127);
  std::vector<std::int32_t> gradient(outputs * inputs), of_bias(outputs);
  linear_gradient(grad_output.data(), nullptr, x.data(), gradient.data(), of_bias.data(), n, 1,
                  outputs, inputs);
  for (std::size_t o = 0; o < outputs; ++o) {
    std::int32_t sum = 0;
    for (std::size_t i = 0; i < n; ++i) sum += grad_output[i * outputs + o];
    if (sum != of_bias[o]) fail("the bias's gradient", trial);
    for (std::size_t j = 0; j < inputs; ++j) {
      sum = 0;
      for (std::size_t i = 0; i < n; ++i) sum += grad_output[i * outputs + o] * x[i * inputs + j];
      if (sum != gradient[o * inputs + j]) fail("the weight's gradient", trial);
    }
  }
  std::vector<std::int64_t> long_sums(outputs * inputs), long_bias(outputs);
  linear_gradient(grad_output.data(), nullptr, x.data(), long_sums.data(), long_bias.data(), n, 1,
                  outputs, inputs);
  if (!std::equal(long_sums.begin(), long_sums.end(), gradient.begin()) ||
      !std::equal(long_bias.begin(), long_bias.end(), of_bias.begin())) {
    fail("the gradient in int64", trial);
  }
  auto weight = numbers(gradient.size(), -127);
  if (draw(0, 1)) gradient[0] = INT32_MIN;  // beyond any sum of products, but defined all the same
  std::vector<std::uint8_t> fraction(weight.size(), 128);
  for (std::uint8_t* also : {static_cast<std::uint8_t*>(nullptr), fraction.data()}) {
    const int mu = draw(-20, 6);
    pseudo_stochastic_update(weight.data(), also, gradient.data(), weight.size(), mu, 127);
    pseudo_stochastic_update(weight.data(), also, long_sums.data(), weight.size(), mu, 127);
  }
  aligned(grad_output.data(), static_cast<int>(outputs), draw(-60, 60));
  std::vector<std::int64_t> exp2(257), log2(257), target(n), words(n * outputs, 5);
  for (int j = 0; j <= 256; ++j) {
    exp2[j] = (std::int64_t{1} << 30) - j * (std::int64_t{1} << 21);
    log2[j] = j * (std::int64_t{1} << 22);
  }
  for (auto& t : target) t = draw(0, static_cast<int>(outputs) - 1);
  std::vector<std::int32_t> logits(n * outputs);
  for (auto& a : logits) a = draw(0, 3) ? draw(-1000, 1000) : draw(0, 1) ? INT32_MAX : -INT32_MAX;
  std::vector<std::int8_t> error(n * outputs);
  const int exponent = draw(-70, 60);
  const Tables tables{exp2.data(), log2.data()};
  std::vector<std::int64_t> each(n);
  const std::int64_t total =
      total_loss(logits.data(), n, outputs, exponent, target.data(), tables, each.data());
  if (total < 0) fail("the sign of a loss", trial);
  std::int64_t sum = 0;
  for (std::int64_t loss : each) sum += loss;
  if (sum != total) fail("the sum of the examples' losses", trial);
  error_of_loss(logits.data(), n, outputs, exponent, target.data(), tables, words.data(),
                error.data());
}

static void check_points(int trial) {
  const int n = draw(1, 3), points = draw(1, 6), o = draw(1, 9), c = draw(1, 9);
  const auto grad_output = numbers(n * o, -127), x = numbers(n * points * c, -127);
  const auto weight = numbers(o * c, -127);
  std::vector<std::int32_t> where(n * o), gradient(o * c), of_bias(o);
  for (auto& p : where) p = draw(0, points - 1);
  std::vector<int> dense(n * points * o), sums(n * points * c);
  for (int i = 0; i < n * o; ++i) dense[(i / o * points + where[i]) * o + i % o] = grad_output[i];
  linear_gradient(grad_output.data(), where.data(), x.data(), gradient.data(), of_bias.data(), n,
                  points, o, c);
  std::vector<int> wanted(o * c), of_errors(o);
  int largest = 0, shift = 0;
  for (int p = 0; p < n * points; ++p) {
    for (int q = 0; q < o; ++q) {
      of_errors[q] += dense[p * o + q];
      for (int j = 0; j < c; ++j) {
        wanted[q * c + j] += dense[p * o + q] * x[p * c + j];
        sums[p * c + j] += dense[p * o + q] * weight[q * c + j];
      }
    }
    for (int j = 0; j < c; ++j) largest = std::max(largest, std::abs(sums[p * c + j]));
  }
  if (!std::equal(wanted.begin(), wanted.end(), gradient.begin()) ||
      !std::equal(of_errors.begin(), of_errors.end(), of_bias.begin())) {
    fail("the gradient of errors at points", trial);
  }
  while (largest >> shift > 127) ++shift;
  std::vector<std::int8_t> below(sums.size(), 1);
  if (error_at_points(checked::product_kernels, grad_output.data(), where.data(), weight.data(),
                      below.data(), n, points, o, c,
                      shift) != static_cast<std::uint32_t>(largest)) {
    fail("the largest of errors at points", trial);
  }
  for (std::size_t i = 0; i < sums.size(); ++i) {
    if (below[i] != round_half_up(sums[i], shift)) fail("errors at points", trial);
  }
}

static void check_backward(int trial) {
  const int n = draw(1, 2), k = draw(1, 5), padding = draw(0, k - 1), size = draw(1, 3);
  const int c = draw(1, 7), o = draw(1, 7), h = std::max(size, draw(k, k + 5));
  const int w = std::max(size, draw(k, k + 5));
  const int rows = h + 2 * padding - k + 1, columns = w + 2 * padding - k + 1;
  const auto x = numbers(static_cast<std::size_t>(n) * h * w * c, -127);
  const auto grad_output = numbers(static_cast<std::size_t>(n) * rows * columns * o, -127);
  std::vector<std::int32_t> gradient(static_cast<std::size_t>(o) * k * k * c), of_bias(o);
  convolution_gradient(grad_output.data(), x.data(), gradient.data(), of_bias.data(), n, h, w, c, o,
                       k, padding);
  for (std::size_t g = 0; g < gradient.size(); ++g) {
    const int j = g % c, dx = g / c % k, dy = g / c / k % k, q = g / c / k / k;
    std::int32_t sum = 0;
    for (int i = 0; i < n; ++i) {
      for (int y = 0; y < rows; ++y) {
        for (int p = 0; p < columns; ++p) {
          const int yy = y + dy - padding, xx = p + dx - padding;
          if (yy < 0 || yy >= h || xx < 0 || xx >= w) continue;
          sum += grad_output[((i * rows + y) * columns + p) * o + q] *
                 x[((i * h + yy) * w + xx) * c + j];
        }
      }
    }
    if (sum != gradient[g]) fail("a convolution's gradient", trial);
  }
  std::vector<std::int64_t> long_sums(gradient.size()), long_bias(o);
  convolution_gradient(grad_output.data(), x.data(), long_sums.data(), long_bias.data(), n, h, w, c,
                       o, k, padding);
  if (!std::equal(long_sums.begin(), long_sums.end(), gradient.begin()) ||
      !std::equal(long_bias.begin(), long_bias.end(), of_bias.begin())) {
    fail("a convolution's gradient in int64", trial);
  }

  const int tall = h / size, wide = w / size;
  const std::size_t pooled = static_cast<std::size_t>(n) * tall * wide * c;
  std::vector<std::int8_t> most(pooled), below(x.size(), 1);
  std::vector<std::uint8_t> where(pooled);
  max_pool(x.data(), most.data(), where.data(), n, h, w, c, size);
  const auto back = numbers(pooled, -127);
  max_pool_backward(back.data(), where.data(), below.data(), n, h, w, c, size);
  std::int64_t left = 0;
  for (std::int8_t e : below) left += e != 0;
  for (std::size_t i = 0; i < pooled; ++i) {
    const int j = i % c, p = i / c % wide, y = i / c / wide % tall, m = i / c / wide / tall;
    auto at = [&](int d) {
      return ((m * h + y * size + d / size) * w + p * size + d % size) * c + j;
    };
    int first = 0;
    for (int d = 1; d < size * size; ++d) first = x[at(d)] > x[at(first)] ? d : first;
    if (most[i] != x[at(first)] || where[i] != first) fail("a maximum", trial);
    if (below[at(first)] != back[i]) fail("the error of a maximum", trial);
    left -= back[i] != 0;
  }
  if (left != 0) fail("the error beside a maximum", trial);
}

// A layer with nodes: its inputs shared by all units, and as those of the one point that won.
static void check_nodes(int trial) {
  const std::size_t n = draw(1, 40), o = draw(1, 31), k = draw(1, 70), points = draw(1, 3);
  const auto x = numbers(n * k, -127), y = numbers(n * o, -127), d = numbers(n, -127);
  const Place place{12345u + trial, 7, 3u << 30, 2};
  const NodeScales by{{40001, draw(0, 40)}, {77, draw(0, 20)}, {40001, draw(0, 62)}};
  const std::int8_t* passed = draw(0, 1) ? y.data() : nullptr;
  const bool bias = draw(0, 1), fine = draw(0, 1);
  std::vector<std::int8_t> clouds(n * points * k);
  std::vector<std::int32_t> where(n * o);
  const int won = draw(0, static_cast<int>(points) - 1);
  for (auto& p : where) p = won;
  for (std::size_t i = 0; i < n; ++i) {
    std::copy_n(x.data() + i * k, k, clouds.data() + (i * points + won) * k);
  }
  const auto weight = numbers(o * k, -127), b = numbers(o, -127);
  std::vector<std::int8_t> first;
  for (int kind = 0; kind < 4; ++kind) {
    auto w = weight, c = b;
    std::vector<std::uint8_t> fraction(o * k, 128), of_bias(o, 128);
    const NodeLayer layer{w.data(), fine ? fraction.data() : nullptr, bias ? c.data() : nullptr,
                          fine && bias ? of_bias.data() : nullptr, o, k};
    const Seen seen = kind % 2 ? Seen{clouds.data(), passed, where.data(), n, points}
                               : Seen{x.data(), passed, nullptr, n, 1};
    node_update(checked::product_kernels, checked::sparse_kernels, checked::node_kernels, layer,
                seen, d.data(), place, trial % 4, by, kind / 2 ? 3 : 1);
    w.insert(w.end(), c.begin(), c.end());
    w.insert(w.end(), fraction.begin(), fraction.end());
    w.insert(w.end(), of_bias.begin(), of_bias.end());
    if (kind == 0) first = w;
    if (w != first) fail("an update from nodes", trial);
  }
  auto moved = numbers(n * o, -127);
  node_shift(checked::sparse_kernels, moved.data(), moved.size(), place, trial % 4, draw(-63, 63),
             draw(0, 1));
  std::vector<std::int32_t> logits(n * o, draw(0, 1) ? INT32_MAX : -INT32_MAX);
  node_shift(checked::sparse_kernels, logits.data(), logits.size(), place, 0,
             std::int64_t{draw(-63, 63)} * (1 << 20),
             false);
}

int main() {
  for (int trial = 0; trial < 400; ++trial) {
    check_backward(trial);
    check_points(trial);
    check_product(trial);
    check_sums(trial);
    check_sweeps(trial);
    check_tail(trial);
    check_nodes(trial);
  }
  if (narrow_trials == 0) fail("a layer that narrow serves, of which there was none, ", 400);
  return 0;
}
