// The engine against other people's results: tiny checkpoints and, where it is there, the demo
// model.
#include "tools/local_run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/needed.h"

namespace kvship {
namespace {

using nlohmann::json;

json ReadJson(const std::string& path) {
  std::ifstream file(path);
  return json::parse(file);
}

std::unique_ptr<const Transformer> Load(const std::string& path) {
  auto model = LoadTransformer(path);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

std::vector<int32_t> Ids(const json& ids) { return ids.get<std::vector<int32_t>>(); }

std::vector<std::vector<float>> AllLogits(LocalRun& run, const std::vector<int32_t>& tokens) {
  std::vector<std::vector<float>> rows;
  EXPECT_TRUE(run.AllLogits(tokens,
                            [&](size_t, TensorView logits) {
                              for (size_t i = 0; i < logits.dims[0]; ++i) {
                                rows.emplace_back(logits.f32(i), logits.f32(i) + logits.dims[1]);
                              }
                            })
                  .ok());
  return rows;
}

std::vector<int32_t> Greedy(LocalRun& run, const std::vector<int32_t>& tokens,
                            const std::string& compression, size_t max_tokens) {
  auto prefilled = run.Prefill(tokens, *ParseCompression(compression), max_tokens);
  EXPECT_TRUE(prefilled.ok()) << prefilled.status();
  auto output = run.Generate(*prefilled, max_tokens, /*stop_at_end=*/false);
  EXPECT_TRUE(output.ok()) << output.status();
  return *output;
}

// Greedy tokens agree up to the first place whose margin is too small to tell.
void ExpectGreedy(const std::vector<int32_t>& tokens, const json& golden, double margin) {
  const auto wanted = Ids(golden.at("greedy_tokens"));
  const auto margins = golden.at("greedy_margins").get<std::vector<double>>();
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (margins[i] <= margin) return;
    ASSERT_EQ(tokens[i], wanted[i]) << "output token " << i << ", margin " << margins[i];
  }
}

class TinyModel : public ::testing::TestWithParam<const char*> {
 protected:
  const std::string path_ = std::string(KVSHIP_GOLDENS "/models/") + GetParam();
  const json golden_ = ReadJson(path_ + "/golden.json");
};

TEST_P(TinyModel, LogitsAreThoseOfTransformers) {
  const auto model = Load(path_);
  for (const Arithmetic arithmetic : {Arithmetic::kFloat32, Arithmetic::kFast}) {
    const bool floats = ArithmeticFor(*model, arithmetic) == Arithmetic::kFloat32;
    for (size_t block_tokens : {256, 7}) {
      LocalRun run(*model, {.arithmetic = arithmetic, .block_tokens = block_tokens});
      const auto rows = AllLogits(run, Ids(golden_.at("prompt_tokens")));
      for (const auto& [position, wanted] : golden_.at("logits_at").items()) {
        const auto& row = rows[std::stoul(position)];
        ASSERT_EQ(row.size(), wanted.size());
        for (size_t i = 0; i < row.size(); ++i) {
          ASSERT_NEAR(row[i], wanted[i].get<double>(), floats ? 2e-3 : 8e-2) << position;
        }
      }
    }
  }
}

TEST_P(TinyModel, GreedyTokensAreThoseOfTransformers) {
  const auto model = Load(path_);
  const bool floats = ArithmeticFor(*model, Arithmetic::kFast) == Arithmetic::kFloat32;
  for (PageFormat format : {PageFormat::kF32, PageFormat::kF16}) {
    LocalRun run(*model, {.tail_format = format});
    const std::string encoder = PageFormatName(format);
    ExpectGreedy(Greedy(run, Ids(golden_.at("prompt_tokens")), "scorer=keep_all,encoder=" + encoder,
                        golden_.at("greedy_tokens").size()),
                 golden_, floats ? 1e-2 : 0.16);
  }
}

INSTANTIATE_TEST_SUITE_P(Goldens, TinyModel,
                         ::testing::Values("llama", "llama3_rope", "llama_bf16_tied", "mixtral",
                                           "qwen3moe", "longchat_linear_rope", "mistral", "qwen2",
                                           "qwen3", "qwen3_yarn"),
                         [](const auto& info) { return std::string(info.param); });

TEST(LocalRun, ThreadsAndBlocksDoNotChangeWhatIsKept) {
  const auto model = Load(KVSHIP_GOLDENS "/models/llama");
  const json golden = ReadJson(KVSHIP_GOLDENS "/compression.json").at("llama");
  const auto options = *ParseCompression("window=16,kernel=5,budget_tokens=48");
  std::vector<std::vector<std::vector<int32_t>>> first;
  for (LocalRun::Options run_options :
       {LocalRun::Options{.num_threads = 1}, LocalRun::Options{.num_threads = 3},
        LocalRun::Options{.block_tokens = 33}}) {
    LocalRun run(*model, run_options);
    auto prefilled = run.Prefill(Ids(golden.at("prompt_tokens")), options, 1);
    ASSERT_TRUE(prefilled.ok()) << prefilled.status();
    std::vector<std::vector<std::vector<int32_t>>> kept;
    for (const auto& layer : prefilled->layers) kept.push_back(layer.positions);
    if (first.empty()) first = kept;
    EXPECT_EQ(kept, first);
  }
}

TEST(LocalRun, EndsOutputsAtTheTokensItIsGiven) {
  const auto model = Load(KVSHIP_GOLDENS "/models/llama");
  const json golden = ReadJson(KVSHIP_GOLDENS "/models/llama/golden.json");
  const auto whole = Ids(golden.at("greedy_tokens"));
  LocalRun run(*model, {.end_tokens = {whole[5]}});
  auto prefilled =
      *run.Prefill(Ids(golden.at("prompt_tokens")), *ParseCompression("scorer=keep_all"), 9);
  EXPECT_EQ(*run.Generate(prefilled, 9, /*stop_at_end=*/true),
            std::vector<int32_t>(whole.begin(), whole.begin() + 6));
}

TEST(LocalRun, RefusesIdsOutsideTheVocabulary) {
  const auto model = Load(KVSHIP_GOLDENS "/models/llama");
  LocalRun run(*model, {});
  EXPECT_EQ(run.Prefill({1, 2, 320}, {}, 1).status().message(),
            "tokens[2] is 320; wanted an id below 320");
  EXPECT_FALSE(run.Prefill({-1}, {}, 1).ok());
  EXPECT_FALSE(run.Prefill({}, {}, 1).ok());
}

class DemoModel : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (IsMissing(KVSHIP_DEMO_MODEL)) GTEST_SKIP() << "no " << KVSHIP_DEMO_MODEL;
    model_ = Load(KVSHIP_DEMO_MODEL);
  }
  std::unique_ptr<const Transformer> model_;
};

TEST_P(DemoModel, LogitsAndGreedyTokensAreThoseOfTransformers) {
  const bool float32 = GetParam();
  LocalRun run(*model_, {.arithmetic = float32 ? Arithmetic::kFloat32 : Arithmetic::kFast,
                         .tail_format = float32 ? PageFormat::kF32 : PageFormat::kF16});
  const json goldens = ReadJson(KVSHIP_GOLDENS "/smollm2/logits.json");
  for (const json& golden : goldens.at("cases")) {
    const auto tokens = Ids(golden.at("ids"));
    const auto rows = AllLogits(run, tokens);
    double nll = 0;
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      const float highest = *std::max_element(rows[i].begin(), rows[i].end());
      double sum = 0;
      for (float x : rows[i]) sum += std::exp(x - highest);
      nll += highest + std::log(sum) - rows[i][tokens[i + 1]];
    }
    nll /= static_cast<double>(tokens.size() - 1);
    const double wanted_nll = golden.at("prompt_nll_mean");
    EXPECT_NEAR(nll, wanted_nll, float32 ? 1e-3 : 0.005 * wanted_nll);
    if (float32) {
      for (const json& top : golden.at("last_top20")) {
        EXPECT_NEAR(rows.back()[top[0].get<size_t>()], top[1].get<double>(), 0.02);
      }
    }
    const std::string encoder = float32 ? "f32" : "f16";
    ExpectGreedy(Greedy(run, tokens, "scorer=keep_all,encoder=" + encoder,
                        golden.at("greedy_tokens").size()),
                 golden, float32 ? 0.05 : 0.5);
  }
}

INSTANTIATE_TEST_SUITE_P(Arithmetic, DemoModel, ::testing::Values(false, true),
                         [](const auto& info) { return info.param ? "float32" : "fast"; });

}  // namespace
}  // namespace kvship
