// Products, elementwise operations and the draw of a token at the shapes of the demo model
// (SmolLM2-135M): a prompt block through one layer, and one token through the whole model. Prints
// time, bytes, rates and the share of what this machine can do (machine_limits.h).
#include <benchmark/benchmark.h>

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/random.h"
#include "bench/kernels/machine_limits.h"
#include "kernels/elementwise.h"
#include "kernels/product.h"
#include "kernels/token_draw.h"

namespace kvship {
namespace {

struct Weights {
  WeightView view;
  Array<std::byte> bytes;  // aligned as an engine's are

  Weights(WeightFormat format, size_t rows, size_t cols)
      : view{nullptr, format, rows, cols}, bytes(view.num_bytes()) {
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(MixBits(i) & 0x3f);
    view.data = bytes.data();
  }
};

Array<float> Activations(size_t count) {
  Array<float> out(count);
  for (size_t i = 0; i < count; ++i) out[i] = static_cast<float>(UniformUnit(1, i) - 0.5);
  return out;
}

// The four products of a layer: rows and columns of their weights.
struct Shape {
  const char* name;
  size_t rows, cols;
};
struct Model {
  Shape layer[4];
  size_t layers, vocabulary;
};
// The demo model, and four layers of a Llama of 1.1B parameters for formats that the former is not
// in: blocks of 256 do not fit its rows, and models in floats are larger.
constexpr Model kSmall = {
    {{"qkv", 960, 576}, {"o", 576, 576}, {"gate_up", 3072, 576}, {"down", 576, 1536}}, 30, 49152};
constexpr Model kLarge = {
    {{"qkv", 2560, 2048}, {"o", 2048, 2048}, {"gate_up", 11264, 2048}, {"down", 2048, 5632}},
    4,
    32000};
const Model& ModelOf(WeightFormat format) {
  return BlockOf(format).num_weights == 32 ? kSmall : kLarge;
}

double BytesOf(const Array<float>& numbers) {
  return static_cast<double>(numbers.size() * sizeof(float));
}

void ProductOfBlock(benchmark::State& state, const Shape& shape, WeightFormat format,
                    Arithmetic arithmetic, size_t num_rows) {
  Backend backend(static_cast<size_t>(state.range(0)));
  const Weights weights(format, shape.rows, shape.cols);
  Array<float> x = Activations(num_rows * shape.cols), y(num_rows * shape.rows);
  ProductWeights unpacked;
  if (!UnpackWeights(backend, {&weights.view, 1}, arithmetic, &unpacked).ok()) return;
  const Work work = {
      .bytes = static_cast<double>(unpacked.memory.num_bytes()) + BytesOf(x) + BytesOf(y),
      .operations = 2.0 * static_cast<double>(num_rows * shape.rows * shape.cols)};
  TimeWork(state, work, [&] {
    const absl::Status status = Product(backend, TensorView(x.data(), {num_rows, shape.cols}),
                                        unpacked, TensorView(y.data(), {num_rows, shape.rows}));
    benchmark::DoNotOptimize(status.ok());
  });
}

void UnpackLayer(benchmark::State& state, WeightFormat format, Arithmetic arithmetic) {
  Backend backend(static_cast<size_t>(state.range(0)));
  std::vector<Weights> weights;
  for (const Shape& shape : ModelOf(format).layer) {
    weights.emplace_back(format, shape.rows, shape.cols);
  }
  std::vector<ProductWeights> unpacked(weights.size());
  const auto unpack = [&] {
    for (size_t i = 0; i < weights.size(); ++i) {
      const absl::Status status =
          UnpackWeights(backend, {&weights[i].view, 1}, arithmetic, &unpacked[i]);
      benchmark::DoNotOptimize(status.ok());
    }
  };
  unpack();
  Work work;
  for (size_t i = 0; i < weights.size(); ++i) {
    work.bytes += static_cast<double>(weights[i].view.num_bytes() + unpacked[i].memory.num_bytes());
  }
  TimeWork(state, work, unpack);
}

// Every product of a decode step, weights of every layer in memory of their own.
void DecodeStep(benchmark::State& state, WeightFormat format, size_t batch) {
  Backend backend(static_cast<size_t>(state.range(0)));
  std::vector<Weights> weights;
  const Model& model = ModelOf(format);
  for (size_t layer = 0; layer < model.layers; ++layer) {
    for (const Shape& shape : model.layer) weights.emplace_back(format, shape.rows, shape.cols);
  }
  const WeightFormat output = &model == &kSmall ? WeightFormat::kQ8_0 : format;
  weights.emplace_back(output, model.vocabulary, model.layer[0].cols);
  Work work;
  for (const Weights& w : weights) {
    work.operations += 2.0 * static_cast<double>(batch * w.view.rows * w.view.cols);
    work.bytes += static_cast<double>(w.view.num_bytes());
  }
  Array<float> x = Activations(batch * model.layer[3].cols), y(batch * model.vocabulary);
  TimeWork(state, work, [&] {
    for (const Weights& w : weights) {
      const absl::Status status =
          ProductPacked(backend, TensorView(x.data(), {batch, w.view.cols}), {&w.view, 1},
                        Arithmetic::kFast, TensorView(y.data(), {batch, w.view.rows}));
      benchmark::DoNotOptimize(status.ok());
    }
  });
}

void ElementwiseOfBlock(benchmark::State& state, size_t num_rows) {
  Backend backend(static_cast<size_t>(state.range(0)));
  Array<float> x = Activations(num_rows * 3072), y(num_rows * 1536);
  const std::vector<float> weight(576, 1.0f);
  std::vector<float> cos_sin(num_rows * 64, 0.7f);
  // Read: rows twice, cosines and sines, gates with what they multiply; written: rows twice, out.
  constexpr size_t kRowNumbers = 4 * 576 + 64 + 3072 + 1536;
  const Work work = {.bytes = static_cast<double>(num_rows * kRowNumbers * sizeof(float))};
  TimeWork(state, work, [&] {
    const TensorView rows(x.data(), {num_rows, 576});
    const bool ok = RmsNorm(backend, rows, weight, 1e-5f, rows).ok() &&
                    Rope(backend, rows.SplitLast(9), TensorView(cos_sin.data(), {num_rows, 64}),
                         RopePairs::kAdjacent)
                        .ok() &&
                    SiluMul(backend, TensorView(x.data(), {num_rows, 3072}),
                            TensorView(y.data(), {num_rows, 1536}))
                        .ok();
    benchmark::DoNotOptimize(ok);
  });
}

void Draw(benchmark::State& state, TokenDraw draw) {
  const Array<float> logits = Activations(kSmall.vocabulary);
  const Work work = {.bytes = BytesOf(logits)};
  TimeWork(state, work, [&] {
    benchmark::DoNotOptimize(DrawToken(logits.span(), draw));
    ++draw.index;
  });
}

void RegisterDraws() {
  // Temperature 1, of logits that are less than 1 apart: nearly all tokens have a chance.
  const auto scale = static_cast<float>(M_LOG2E * (1 << kHalvingBits));
  const std::pair<const char*, TokenDraw> draws[] = {
      {"likeliest", {}},
      {"all", {.scale = scale}},
      {"top_k", {.scale = scale, .top_k = 50}},
      {"top_p", {.scale = scale, .top_p = ~uint64_t{0} / 10 * 9}}};
  for (const auto& [name, draw] : draws) {
    benchmark::RegisterBenchmark((std::string("draw/") + name).c_str(), Draw, draw)
        ->Arg(1)
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond)
        ->MinTime(0.2);
  }
}

void Register() {
  const auto threads = [](benchmark::internal::Benchmark* b) {
    b->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMicrosecond)->MinTime(0.2);
  };
  using enum WeightFormat;
  const std::tuple<const char*, WeightFormat, Arithmetic> products[] = {
      {"fast", kQ4_1, Arithmetic::kFast},
      {"bf16", kBf16, Arithmetic::kFast},
      {"float32", kQ4_1, Arithmetic::kFloat32}};
  for (const Shape& shape : kSmall.layer) {
    for (const auto& [kind, format, arithmetic] : products) {
      const std::string name = std::string("product/") + shape.name + "/" + kind;
      threads(benchmark::RegisterBenchmark(name.c_str(), ProductOfBlock, shape, format, arithmetic,
                                           512));
    }
  }
  for (const WeightFormat format : {kQ4_1, kQ4_K, kQ6_K, kQ8_0, kBf16, kF16}) {
    const std::string name = WeightFormatName(format);
    threads(benchmark::RegisterBenchmark(("unpack/" + name + "/fast").c_str(), UnpackLayer, format,
                                         Arithmetic::kFast));
    threads(benchmark::RegisterBenchmark(("unpack/" + name + "/float32").c_str(), UnpackLayer,
                                         format, Arithmetic::kFloat32));
  }
  for (const WeightFormat format : {kF16, kBf16, kQ8_0, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kIQ4_NL, kQ2_K,
                                    kQ3_K, kQ4_K, kQ5_K, kQ6_K, kIQ4_XS}) {
    for (const size_t batch : {1, 8}) {
      threads(benchmark::RegisterBenchmark(
          (std::string("decode/") + WeightFormatName(format) + "/batch" + std::to_string(batch))
              .c_str(),
          DecodeStep, format, batch));
    }
  }
  threads(benchmark::RegisterBenchmark("elementwise/1row", ElementwiseOfBlock, 1));
  threads(benchmark::RegisterBenchmark("elementwise/512rows", ElementwiseOfBlock, 512));
  RegisterDraws();
}

}  // namespace
}  // namespace kvship

int main(int argc, char** argv) {
  kvship::Register();
  benchmark::Initialize(&argc, argv);
  kvship::ShowLimits({1, 2});
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
