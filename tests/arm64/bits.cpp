// What every kernel of every instruction set here gives for made-up numbers: a line each, with a
// digest. tests/arm64/compare.py runs it on two processors; the lines must be the same.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "integers.hpp"
#include "isa.hpp"
#include "sweeps.hpp"

namespace {

std::uint64_t state;

std::uint32_t any() {  // Knuth's MMIX
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<std::uint32_t>(state >> 32);
}

template <class T>
std::vector<T> numbers(std::size_t n, int low, int high) {
  std::vector<T> found(n);
  for (T& x : found) x = static_cast<T>(low + static_cast<int>(any() % unsigned(high - low + 1)));
  return found;
}

std::vector<std::int8_t> bytes(std::size_t n) { return numbers<std::int8_t>(n, -127, 127); }

template <class T>
void tell(const std::string& what, const std::vector<T>& found) {
  std::uint64_t h = 14695981039346656037u;  // FNV-1a
  std::vector<unsigned char> raw(found.size() * sizeof(T));
  if (!raw.empty()) std::memcpy(raw.data(), found.data(), raw.size());
  for (unsigned char byte : raw) h = (h ^ byte) * 1099511628211u;
  std::printf("%s %016llx\n", what.c_str(), static_cast<unsigned long long>(h));
}

const std::vector<std::string> kNoises = {"gaussian", "rademacher", "uniform", "gaussian-16",
                                          "rademacher-1"};
const std::vector<std::string> kTypes = {"float32", "float64", "float16", "bfloat16"};
const ezo::Place kPlace{0x123456789ABCDEFu, 77, 3};

// Sweeps over two tensors, one of which is stored transposed.
template <class T>
void sweeps(const ezo::Kernels& kernels, int type, int noise, const std::string& what, int threads) {
  std::vector<T> plain(3001), turned(7 * 11);
  const std::vector<ezo::Target> targets = {
      {plain.data(), plain.size(), 5, static_cast<ezo::Type>(type), {}, {}},
      {turned.data(), turned.size(), 6, static_cast<ezo::Type>(type), {7, 11}, {1, 7}}};
  const auto kind = static_cast<ezo::Noise>(noise);
  auto both = [&](const char* sweep) {
    tell(what + " " + sweep, plain);
    tell(what + " " + sweep + " transposed", turned);
  };
  ezo::fill(kernels, targets, kind, kPlace, threads);
  both("fill");
  ezo::shift(kernels, targets, kind, kPlace, {1e-3, 1.0}, threads);
  both("shift");
  ezo::update(kernels, targets, kind, kPlace, {1e-3, 7e-4, 1e-5, true}, threads);
  both("update");
  if (type >= 2) {
    ezo::learn(kernels, targets, kind, kPlace, {3e-3, 1e-4}, threads);
    both("learn");
  }
}

void floats(const ezo::Kernels& kernels) {
  for (int noise = 0; noise < 5; ++noise) {
    for (int threads : {1, 2}) {
      const std::string head = kNoises[noise] + " " + std::to_string(threads) + " ";
      sweeps<float>(kernels, 0, noise, head + kTypes[0], threads);
      sweeps<double>(kernels, 1, noise, head + kTypes[1], threads);
      sweeps<std::uint16_t>(kernels, 2, noise, head + kTypes[2], threads);
      sweeps<std::uint16_t>(kernels, 3, noise, head + kTypes[3], threads);
    }
  }
}

void sparse(const ezo::Kernels& kernels) {
  std::vector<std::int64_t> words(1025);
  ezo::words(kernels, kPlace, words.data(), words.size());
  tell("words", words);
  auto weight = numbers<std::int8_t>(2053, -112, 112);
  auto fraction = numbers<std::uint8_t>(weight.size(), 0, 255);
  const ezo::Sparse noise{1u << 15, 31};
  for (bool finer : {false, true}) {
    const std::string what = finer ? "sparse, with fraction" : "sparse";
    const std::vector<ezo::Weights> of = {
        {weight.data(), finer ? fraction.data() : nullptr, weight.size(), 2}};
    ezo::sparse_shift(kernels, of, noise, kPlace, 1, 2);
    tell(what + " shift", weight);
    ezo::sparse_update(kernels, of, noise, kPlace, {-1, 5000, 112, 1}, 2);
    tell(what + " update", weight);
    tell(what + " update's fraction", fraction);
  }
}

// Kernels and strides that are no squares, and other zeros on each side.
void geometries(const ezo::Kernels& kernels) {
  for (const int groups : {1, 21}) {
    const int channels = groups > 1 ? 1 : 5, outputs = 21, height = 11, width = 9, n = 3;
    const auto x = bytes(std::size_t(n) * height * width * channels * groups);
    const auto weight = bytes(std::size_t(outputs) * channels * 4 * 3), bias = bytes(outputs);
    const ezo::Layer layer{channels, outputs, 4, 3,      2,             1,           2,
                           1,        0,       1, groups, weight.data(), bias.data(), -2};
    const std::size_t places = std::size_t(layer.rows(height)) * layer.columns(width);
    for (int threads : {1, 2}) {
      std::vector<std::int8_t> y(n * places * outputs);
      const auto largest = ezo::product(*kernels.products, {x.data(), n, height, width}, layer,
                                        {false, 1, false, 7}, y.data(), nullptr, threads);
      tell("oblong, " + std::to_string(groups) + " groups, " + std::to_string(threads) +
               ", largest " + std::to_string(largest),
           y);
    }
  }
}

void sums(const ezo::Kernels& kernels) {
  const auto a = bytes(1037), b = bytes(a.size());
  for (const int left : {5, 0, -3}) {
    for (const int shift : {0, 4}) {
      std::vector<std::int8_t> y(a.size());
      const auto largest = kernels.products->add(a.data(), b.data(), y.data(), a.size(), left,
                                                 left - 2, shift > 0, shift);
      tell("sum, left " + std::to_string(left) + ", shift " + std::to_string(shift) + ", largest " +
               std::to_string(largest),
           y);
    }
  }
  const ezo::Images images{a.data(), 3, 7, 6};
  std::vector<std::int32_t> means(3 * 3 * 2 * 8);
  const auto largest = ezo::average(images, 8, 2, 3, means.data());
  tell("means of blocks, largest " + std::to_string(largest), means);
}

void products(const ezo::Kernels& kernels) {
  struct Shape {
    const char* name;
    int images, height, width, channels, outputs, kernel, padding, stride, groups;
  };
  for (const Shape& s : {Shape{"convolution", 4, 12, 12, 3, 9, 5, 2, 1, 1},
                         Shape{"convolution of few outputs", 4, 12, 12, 1, 5, 5, 2, 1, 1},
                         Shape{"convolution without padding", 3, 8, 6, 16, 32, 3, 0, 1, 1},
                         Shape{"convolution of stride 2", 2, 13, 13, 8, 16, 3, 1, 2, 1},
                         Shape{"pooled convolution of stride 2", 2, 16, 16, 3, 9, 3, 1, 2, 1},
                         Shape{"depthwise convolution", 2, 12, 12, 1, 24, 3, 1, 1, 24},
                         Shape{"depthwise convolution of stride 2", 4, 13, 13, 1, 40, 3, 1, 2, 40},
                         Shape{"pooled depthwise convolution", 4, 16, 16, 1, 33, 5, 2, 2, 33},
                         Shape{"linear", 1, 1, 33, 70, 21, 1, 0, 1, 1}}) {
    const auto x = bytes(std::size_t(s.images) * s.height * s.width * s.channels * s.groups);
    const auto weight = bytes(std::size_t(s.outputs) * s.channels * s.kernel * s.kernel);
    const auto bias = bytes(s.outputs);
    ezo::Layer layer = ezo::Layer::square(s.channels, s.outputs, s.kernel, s.padding,
                                          weight.data(), bias.data(), 3);
    layer.down = layer.across = s.stride, layer.groups = s.groups;
    const int height = (s.height + 2 * s.padding - s.kernel) / s.stride + 1;
    const int width = (s.width + 2 * s.padding - s.kernel) / s.stride + 1;
    const std::size_t n = std::size_t(s.images) * height * width * s.outputs;
    const ezo::Images images{x.data(), s.images, s.height, s.width};
    for (int threads : {1, 2}) {
      const std::string what = std::string(s.name) + " " + std::to_string(threads);
      std::vector<std::int32_t> sums(n);
      const auto largest = ezo::product(*kernels.products, images, layer, {false, 1, false, -1},
                                        sums.data(), nullptr, threads);
      tell(what + " accumulators, largest " + std::to_string(largest), sums);
      const bool pools = height > 1 && height % 2 == 0 && width % 2 == 0;
      std::vector<std::int8_t> y(pools ? n / 4 : n);
      ezo::product(*kernels.products, images, layer, {true, pools ? 2 : 1, false, 8}, y.data(),
                   nullptr, threads);
      tell(what + " requantized", y);
    }
  }
  geometries(kernels);
  const std::size_t points = 40, inputs = 24, outputs = 17, n = 3;
  const auto x = bytes(n * points * inputs), weight = bytes(outputs * inputs);
  const auto layer =
      ezo::Layer::square(int(inputs), int(outputs), 1, 0, weight.data(), nullptr, 0);
  std::vector<std::int8_t> y(n * outputs);
  std::vector<std::int32_t> where(n * outputs);
  ezo::product(*kernels.products, {x.data(), int(n), 1, int(points)}, layer, {true, 1, true, 7},
               y.data(), where.data(), 2);
  tell("maxima over points", y);
  tell("their points", where);
  const auto error = bytes(n * outputs);
  std::vector<std::int8_t> to_input(n * points * inputs);
  ezo::error_at_points(*kernels.products, error.data(), where.data(), weight.data(),
                       to_input.data(), n, points, outputs, inputs, 6);
  tell("errors at points", to_input);
  std::vector<std::int32_t> gradient(outputs * inputs), of_bias(outputs);
  ezo::linear_gradient(error.data(), where.data(), x.data(), gradient.data(), of_bias.data(), n,
                       points, outputs, inputs);
  tell("gradient at points", gradient);
  tell("its bias", of_bias);
  const auto sums = numbers<std::int32_t>(1111, -2000000, 2000000);
  std::vector<std::int8_t> small(sums.size());
  kernels.products->requantize(sums.data(), small.data(), sums.size(), 14);
  tell("requantized", small);
}

void rest() {
  const int n = 2, height = 8, width = 8, channels = 5, outputs = 7, kernel = 3, padding = 1;
  const auto x = bytes(std::size_t(n) * height * width * channels);
  const auto error = bytes(std::size_t(n) * height * width * outputs);
  std::vector<std::int64_t> gradient(std::size_t(outputs) * kernel * kernel * channels);
  std::vector<std::int64_t> of_bias(outputs);
  ezo::convolution_gradient(error.data(), x.data(), gradient.data(), of_bias.data(), n, height,
                            width, channels, outputs, kernel, padding);
  tell("gradient of a convolution", gradient);
  for (bool finer : {false, true}) {
    auto weight = bytes(gradient.size());
    auto fraction = numbers<std::uint8_t>(weight.size(), 0, 255);
    ezo::pseudo_stochastic_update(weight.data(), finer ? fraction.data() : nullptr,
                                  gradient.data(), weight.size(), 3, 127);
    tell(finer ? "BP update, with fraction" : "BP update", weight);
    tell("its fraction", fraction);
  }
  std::vector<std::int8_t> y(x.size() / 4), back(x.size()), turned(x.size());
  std::vector<std::uint8_t> where(y.size());
  ezo::max_pool(x.data(), y.data(), where.data(), n, height, width, channels, 2);
  tell("largest of blocks", y);
  ezo::max_pool_backward(y.data(), where.data(), back.data(), n, height, width, channels, 2);
  tell("their errors", back);
  ezo::transpose(x.data(), turned.data(), n, height * width, channels, 1);
  tell("in one dimension", turned);
  const auto planes = bytes(5 * 90000);
  turned.resize(planes.size());
  ezo::transpose(planes.data(), turned.data(), 5, 3, 30000, 2);
  tell("channels last", turned);
}

void nodes(const ezo::Kernels& kernels) {
  const std::size_t n = 6, inputs = 50, outputs = 19;
  auto y = bytes(n * outputs);
  ezo::node_shift(*kernels.sparse, y.data(), y.size(), kPlace, 1, 9, true);
  tell("nodes", y);
  auto wide = numbers<std::int32_t>(n * outputs, -90000, 90000);
  ezo::node_shift(*kernels.sparse, wide.data(), wide.size(), kPlace, 0, -4000, false);
  tell("nodes of accumulators", wide);
  const auto x = bytes(n * inputs), differences = bytes(n);
  const std::size_t points = 7;
  const auto clouds = bytes(n * points * inputs);
  const auto where = numbers<std::int32_t>(n * outputs, 0, int(points) - 1);
  auto weight = bytes(outputs * inputs), bias = bytes(outputs);
  auto fraction = numbers<std::uint8_t>(weight.size(), 0, 255);
  auto bias_fraction = numbers<std::uint8_t>(outputs, 0, 255);
  ezo::node_update(*kernels.products, *kernels.sparse, *kernels.nodes,
                   {weight.data(), fraction.data(), bias.data(), bias_fraction.data(), outputs,
                    inputs},
                   {x.data(), y.data(), nullptr, n, 1}, differences.data(), kPlace, 1,
                   {{900, 12}, {700, 11}, {500, 13}}, 2);
  tell("update by nodes", weight);
  tell("its fraction", fraction);
  tell("update of the bias", bias);
  tell("its fraction", bias_fraction);
  for (int threads : {1, 2}) {
    ezo::node_update(*kernels.products, *kernels.sparse, *kernels.nodes,
                     {weight.data(), fraction.data(), bias.data(), bias_fraction.data(), outputs,
                      inputs},
                     {clouds.data(), y.data(), where.data(), n, points}, differences.data(), kPlace,
                     0, {{900, 12}, {700, 11}, {500, 13}}, threads);
    const std::string what = "at points, " + std::to_string(threads) + " ";
    tell(what + "update by nodes", weight);
    tell(what + "its fraction", fraction);
    tell(what + "update of the bias", bias);
  }
}

}  // namespace

int main() {
  for (const ezo::Kernels& kernels : ezo::available()) {
    state = 20240101;
    std::printf("[%s]\n", kernels.isa);
    floats(kernels);
    sparse(kernels);
    products(kernels);
    sums(kernels);
    rest();
    nodes(kernels);
  }
}
