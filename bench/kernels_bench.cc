// Products and elementwise operations at the shapes of the demo model (SmolLM2-135M): a prompt
// block through one layer, and one token through the whole model. Prints time, arithmetic rate, and
// bytes of weights read per second.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "base/random.h"
#include "kernels/elementwise.h"
#include "kernels/product.h"

namespace kvship {
namespace {

struct Weights {
  std::vector<std::byte> bytes;
  WeightView view;

  Weights(WeightFormat format, size_t rows, size_t cols) : view{nullptr, format, rows, cols} {
    bytes.resize(view.num_bytes());
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(MixBits(i) & 0x3f);
    view.data = bytes.data();
  }
};

std::vector<float> Activations(size_t count) {
  std::vector<float> out(count);
  for (size_t i = 0; i < count; ++i) out[i] = static_cast<float>(UniformUnit(1, i) - 0.5);
  return out;
}

// The four products of a layer: rows and columns of their weights.
struct Shape {
  const char* name;
  size_t rows, cols;
};
constexpr Shape kLayer[] = {
    {"qkv", 960, 576}, {"o", 576, 576}, {"gate_up", 3072, 576}, {"down", 576, 1536}};
constexpr size_t kLayers = 30, kVocabulary = 49152, kHidden = 576;

void SetRates(benchmark::State& state, double products, double bytes) {
  const auto n = static_cast<double>(state.iterations());
  state.counters["GFLOP/s"] = benchmark::Counter(2e-9 * products * n, benchmark::Counter::kIsRate);
  state.counters["weights GB/s"] =
      benchmark::Counter(1e-9 * bytes * n, benchmark::Counter::kIsRate);
}

void ProductOfBlock(benchmark::State& state, const Shape& shape, WeightFormat format,
                    Arithmetic arithmetic, size_t num_rows) {
  Backend backend(static_cast<size_t>(state.range(0)));
  const Weights weights(format, shape.rows, shape.cols);
  std::vector<float> x = Activations(num_rows * shape.cols), y(num_rows * shape.rows);
  ProductWeights unpacked;
  if (!UnpackWeights(backend, {&weights.view, 1}, arithmetic, &unpacked).ok()) return;
  for (auto _ : state) {
    const absl::Status status = Product(backend, TensorView(x.data(), {num_rows, shape.cols}),
                                        unpacked, TensorView(y.data(), {num_rows, shape.rows}));
    benchmark::DoNotOptimize(status.ok());
  }
  SetRates(state, static_cast<double>(num_rows * shape.rows * shape.cols),
           static_cast<double>(weights.view.num_bytes()));
}

void UnpackLayer(benchmark::State& state, WeightFormat format, Arithmetic arithmetic) {
  Backend backend(static_cast<size_t>(state.range(0)));
  std::vector<Weights> weights;
  for (const Shape& shape : kLayer) weights.emplace_back(format, shape.rows, shape.cols);
  std::vector<ProductWeights> unpacked(weights.size());
  double bytes = 0;
  for (const Weights& w : weights) bytes += static_cast<double>(w.view.num_bytes());
  for (auto _ : state) {
    for (size_t i = 0; i < weights.size(); ++i) {
      const absl::Status status =
          UnpackWeights(backend, {&weights[i].view, 1}, arithmetic, &unpacked[i]);
      benchmark::DoNotOptimize(status.ok());
    }
  }
  SetRates(state, 0, bytes);
}

// Every product of a decode step, weights of every layer in memory of their own.
void DecodeStep(benchmark::State& state, WeightFormat format, size_t batch) {
  Backend backend(static_cast<size_t>(state.range(0)));
  std::vector<Weights> weights;
  for (size_t layer = 0; layer < kLayers; ++layer) {
    for (const Shape& shape : kLayer) weights.emplace_back(format, shape.rows, shape.cols);
  }
  weights.emplace_back(WeightFormat::kQ8_0, kVocabulary, kHidden);
  double products = 0, bytes = 0;
  for (const Weights& w : weights) {
    products += static_cast<double>(batch * w.view.rows * w.view.cols);
    bytes += static_cast<double>(w.view.num_bytes());
  }
  std::vector<float> x = Activations(batch * 1536), y(batch * kVocabulary);
  for (auto _ : state) {
    for (const Weights& w : weights) {
      const absl::Status status =
          ProductPacked(backend, TensorView(x.data(), {batch, w.view.cols}), {&w.view, 1},
                        Arithmetic::kFast, TensorView(y.data(), {batch, w.view.rows}));
      benchmark::DoNotOptimize(status.ok());
    }
  }
  SetRates(state, products, bytes);
}

void ElementwiseOfBlock(benchmark::State& state, size_t num_rows) {
  Backend backend(static_cast<size_t>(state.range(0)));
  std::vector<float> x = Activations(num_rows * 3072), y(num_rows * 1536), weight(576, 1.0f);
  std::vector<float> cos_sin(num_rows * 64, 0.7f);
  for (auto _ : state) {
    const TensorView rows(x.data(), {num_rows, 576});
    const bool ok = RmsNorm(backend, rows, weight, 1e-5f, rows).ok() &&
                    Rope(backend, rows.SplitLast(9), TensorView(cos_sin.data(), {num_rows, 64}),
                         RopePairs::kAdjacent)
                        .ok() &&
                    SiluMul(backend, TensorView(x.data(), {num_rows, 3072}),
                            TensorView(y.data(), {num_rows, 1536}))
                        .ok();
    benchmark::DoNotOptimize(ok);
  }
}

void Register() {
  const auto threads = [](benchmark::internal::Benchmark* b) {
    b->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMicrosecond)->MinTime(0.2);
  };
  for (const Shape& shape : kLayer) {
    for (const Arithmetic arithmetic : {Arithmetic::kFast, Arithmetic::kFloat32}) {
      const std::string name = std::string("product/") + shape.name +
                               (arithmetic == Arithmetic::kFast ? "/fast" : "/float32");
      threads(benchmark::RegisterBenchmark(name.c_str(), ProductOfBlock, shape, WeightFormat::kQ4_1,
                                           arithmetic, 512));
    }
  }
  for (const WeightFormat format : {WeightFormat::kQ4_1, WeightFormat::kQ4_K, WeightFormat::kQ6_K,
                                    WeightFormat::kQ8_0, WeightFormat::kBf16}) {
    const std::string name = WeightFormatName(format);
    threads(benchmark::RegisterBenchmark(("unpack/" + name + "/fast").c_str(), UnpackLayer, format,
                                         Arithmetic::kFast));
    threads(benchmark::RegisterBenchmark(("unpack/" + name + "/float32").c_str(), UnpackLayer,
                                         format, Arithmetic::kFloat32));
  }
  for (const WeightFormat format :
       {WeightFormat::kQ4_1, WeightFormat::kQ8_0, WeightFormat::kBf16}) {
    for (const size_t batch : {1, 8}) {
      threads(benchmark::RegisterBenchmark(
          (std::string("decode/") + WeightFormatName(format) + "/batch" + std::to_string(batch))
              .c_str(),
          DecodeStep, format, batch));
    }
  }
  threads(benchmark::RegisterBenchmark("elementwise/1row", ElementwiseOfBlock, 1));
  threads(benchmark::RegisterBenchmark("elementwise/512rows", ElementwiseOfBlock, 512));
}

}  // namespace
}  // namespace kvship

int main(int argc, char** argv) {
  kvship::Register();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
