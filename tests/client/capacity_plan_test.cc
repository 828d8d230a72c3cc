#include "client/capacity_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/plan_model.h"
#include "client/plan_text.h"
#include "tests/temp_folder.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

constexpr double kGbps = 1e9 / 8;

PlannedModel Model(const std::string& name) { return *ReadPlannedModel(name); }
Gpu H200() { return *ParseGpu("h200"); }

// The shapes by the names of bench/engine/cuda/shapes.h.
PlannedModel Measured(const std::string& shape) {
  return Model(shape == "8b" ? "llama-3.1-8b" : "llama-2-7b");
}

// Of what a GPU was measured at. A file that names its machine begins with that; the first ones
// were an H200's.
std::vector<Json> Measurements(const std::string& bench) {
  std::vector<Json> found;
  for (const char* name : {"gpu-engine.jsonl", "gpu-paper.jsonl", "gpu-long.jsonl"}) {
    std::ifstream file(absl::StrCat(KVSHIP_GOLDENS, "/../../bench/results/", name));
    std::string gpu = "h200";
    for (std::string line; std::getline(file, line);) {
      Json json = Json::parse(line);
      if (json["bench"] == "machine") {
        gpu = absl::StrContains(json["device"].get<std::string>(), "H100") ? "h100" : "h200";
      }
      if (json["bench"] != bench || json.contains("error")) continue;
      json["gpu"] = gpu;
      found.push_back(std::move(json));
    }
  }
  return found;
}
Gpu MeasuredOn(const Json& measured) { return *ParseGpu(measured["gpu"]); }

// A uniform budget in f16 over the last 32 queries, as the GPU was measured with.
CompressionOptions Kept(size_t tokens) {
  CompressionOptions options;
  options.budget_tokens = tokens;
  return options;
}

PlannedLoad Load(size_t prompt_tokens, double gbps = 100) {
  return {.prompt_tokens = prompt_tokens,
          .output_tokens = 512,
          .requests_per_second = 4,
          .link_bytes_per_second = gbps * kGbps};
}

TEST(PrefillSeconds, IsWithinATenthOfWhatWasMeasured) {
  size_t num_compared = 0;
  for (const Json& measured : Measurements("prefill")) {
    const size_t tokens = measured["tokens"];
    const double seconds =
        PrefillSeconds(Measured(measured["shape"]), MeasuredOn(measured), tokens);
    const double wanted =
        measured["seconds_compressed"].get<double>() - measured["compress_seconds"].get<double>();
    EXPECT_NEAR(seconds, wanted, 0.1 * wanted) << measured;
    ++num_compared;
  }
  EXPECT_GE(num_compared, 9);
}

// None of the shares was fitted to them: four times the longest prompt that they were fitted to,
// and more.
TEST(PrefillSeconds, HoldsForPromptsOfHalfAMillionTokensAndMoreThatItHasNotSeen) {
  size_t num_compared = 0;
  for (const Json& measured : Measurements("long")) {
    const size_t tokens = measured["tokens"];
    EXPECT_GE(tokens, 524288);
    const PlannedModel model = Measured(measured["shape"]);
    const Gpu gpu = MeasuredOn(measured);
    const double wanted = measured["seconds"];
    EXPECT_NEAR(PrefillSeconds(model, gpu, tokens) + CompressSeconds(model, gpu, tokens, 32),
                wanted, (tokens > 524288 ? 0.05 : 0.02) * wanted)
        << measured;
    const auto plan = PlanCapacity(model, gpu, Kept(4096), Load(tokens));
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(plan->whole.plan.wire_bytes(), measured["kv_bytes"].get<size_t>());
    EXPECT_EQ(plan->compact.plan.wire_bytes(), measured["shipped_bytes"].get<size_t>());
    ++num_compared;
  }
  EXPECT_GE(num_compared, 1);
}

TEST(CompressSeconds, IsWithinAQuarterOfWhatWasMeasured) {
  for (const Json& measured : Measurements("prefill")) {
    const double seconds =
        CompressSeconds(Measured(measured["shape"]), MeasuredOn(measured), measured["tokens"], 32);
    const double wanted = measured["compress_seconds"];
    // The first prompt of a shape also warms up: 5,120 tokens took longer than 16,384.
    if (measured["tokens"] == 5120) continue;
    EXPECT_NEAR(seconds, wanted, 0.25 * wanted) << measured;
  }
}

TEST(StepSeconds, IsWithinATenthOfWhatWasMeasured) {
  size_t num_compared = 0;
  for (const Json& measured : Measurements("decode")) {
    const PlannedModel model = Measured(measured["shape"]);
    const size_t batch = measured["batch"], kept = measured["kept"];
    const KvShape& shape = model.shape;
    const double kv_bytes =
        4.0 * static_cast<double>(shape.num_layers * shape.num_kv_heads * shape.head_dim * kept);
    EXPECT_NEAR(model.step_bytes + static_cast<double>(batch) * kv_bytes,
                measured["bytes"].get<double>(), 0.01 * measured["bytes"].get<double>());
    const double wanted = measured["ms_per_step"].get<double>() * 1e-3;
    EXPECT_NEAR(StepSeconds(model, MeasuredOn(measured), batch, kv_bytes), wanted, 0.1 * wanted)
        << measured;
    ++num_compared;
  }
  EXPECT_GE(num_compared, 25);
}

TEST(PlanCapacity, CountsTheBytesThatWereMeasured) {
  for (const Json& measured : Measurements("prefill")) {
    const auto plan =
        PlanCapacity(Measured(measured["shape"]), H200(), Kept(2048), Load(measured["tokens"]));
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(plan->whole.plan.wire_bytes(), measured["kv_bytes"].get<size_t>());
    EXPECT_EQ(plan->compact.plan.wire_bytes(), measured["shipped_bytes"].get<size_t>());
    EXPECT_EQ(plan->compact.plan.uncompressed_bytes(), plan->whole.plan.wire_bytes());
  }
}

TEST(PlanCapacity, HoldsAllSessionsInTheMemoryButNotOneMore) {
  const PlannedModel model = Model("llama-3.1-8b");
  const auto plan = PlanCapacity(model, H200(), Kept(2048), Load(32768));
  ASSERT_TRUE(plan.ok()) << plan.status();
  const double room = 0.9 * H200().memory_bytes - model.weight_bytes;
  for (const RequestCost* cost : {&plan->whole, &plan->compact}) {
    EXPECT_LE(static_cast<double>(cost->sessions) * cost->session_bytes, room);
    EXPECT_GT(static_cast<double>(cost->sessions + 1) * cost->session_bytes, room);
  }
  EXPECT_EQ(plan->whole.sessions, 25);
  EXPECT_EQ(plan->compact.sessions, 330);
}

TEST(PlanCapacity, TakesSoManySessionsThatTheirStepIsFastEnough) {
  PlannedLoad load = Load(32768);
  load.most_seconds_per_token = 0.008;
  const auto plan = PlanCapacity(Model("llama-3.1-8b"), H200(), Kept(2048), load);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_LE(plan->compact.step_seconds, 0.008);
  EXPECT_GT(plan->compact.sessions, 10);
  load.most_seconds_per_token = 0.001;
  const auto none = PlanCapacity(Model("llama-3.1-8b"), H200(), Kept(2048), load);
  EXPECT_EQ(none->compact.sessions, 0);
  EXPECT_EQ(none->compact.decode_nodes, 0);
}

TEST(PlanCapacity, GivesNodesForMemoryThatIsHeldWhileAPromptIsRead) {
  PlannedLoad load = Load(131072, 400);
  load.requests_per_second = 2;
  load.output_tokens = 64;
  const auto plan = PlanCapacity(Model("llama-3.1-8b"), H200(), Kept(2048), load);
  ASSERT_TRUE(plan.ok()) << plan.status();
  // Each holds one of six places for 10.4 s of prefill and 1.8 s of output.
  EXPECT_EQ(plan->whole.sessions, 6);
  EXPECT_EQ(plan->whole.decode_nodes, 6);
}

TEST(PlanCapacity, GivesNodesForTheWorkThatArrives) {
  PlannedLoad load = Load(32768, 1e6);
  load.requests_per_second = 4;
  const auto plan = PlanCapacity(Model("llama-3.1-8b"), H200(), Kept(2048), load);
  ASSERT_TRUE(plan.ok()) << plan.status();
  // 1.19 s each, four times a second, on nodes that work for 0.8 of the time.
  EXPECT_EQ(plan->whole.prefill_nodes, 6);
  EXPECT_EQ(plan->compact.prefill_nodes, 6);
  const RequestCost& compact = plan->compact;
  const double seconds = 512 * compact.step_seconds;
  const double per_node = 0.8 * static_cast<double>(compact.sessions) / seconds;
  EXPECT_GE(static_cast<double>(compact.decode_nodes) * per_node, 4);
  EXPECT_LT(static_cast<double>(compact.decode_nodes - 1) * per_node, 4);
}

TEST(PlanCapacity, GivesNodesForTheirLinks) {
  const auto plan = PlanCapacity(Model("llama-3.1-8b"), H200(), Kept(2048), Load(32768, 10));
  ASSERT_TRUE(plan.ok()) << plan.status();
  // 4.29 GB, four times a second, over links of 1.25 GB/s that are used for 0.8 of the time.
  EXPECT_EQ(plan->whole.prefill_nodes, 18);
  EXPECT_EQ(plan->whole.decode_nodes, 18);
  EXPECT_EQ(plan->compact.prefill_nodes, 6);
}

TEST(PlanCapacity, BreaksEvenWhereTheFirstTokensComeTogether) {
  const PlannedModel model = Model("llama-3.1-8b");
  const auto plan = PlanCapacity(model, H200(), Kept(2048), Load(16384));
  ASSERT_TRUE(plan.ok()) << plan.status();
  const double gbps = plan->break_even_bytes_per_second / kGbps;
  const auto saved = [&](double link_gbps) {
    const auto at = PlanCapacity(model, H200(), Kept(2048), Load(16384, link_gbps));
    return at->whole.first_token_seconds() - at->compact.first_token_seconds();
  };
  EXPECT_NEAR(saved(gbps), 0, 1e-6);
  EXPECT_GT(saved(gbps * 0.9), 0);
  EXPECT_LT(saved(gbps * 1.1), 0);
}

TEST(PlanCapacity, HidesTheWholeCacheFromItsLinkSpeedOn) {
  const PlannedModel model = Model("llama-3.1-8b");
  const auto plan = PlanCapacity(model, H200(), Kept(2048), Load(16384));
  const double gbps = plan->hiding_bytes_per_second / kGbps;
  const auto at = PlanCapacity(model, H200(), Kept(2048), Load(16384, gbps));
  EXPECT_NEAR(at->whole.exposed_seconds, at->whole.transfer_seconds / 32, 1e-9);
  const auto below = PlanCapacity(model, H200(), Kept(2048), Load(16384, gbps / 2));
  EXPECT_GT(below->whole.exposed_seconds, below->whole.transfer_seconds / 32 + 0.1);
}

// Every query of the prompt votes, and not the window's 32: half of 32768 on average.
TEST(PlanCapacity, CountsColumnSumsWhereTheScorerWantsThem) {
  const PlannedModel model = Model("llama-3.1-8b");
  const auto compress_seconds = [&](const char* scorer) {
    CompressionOptions options = Kept(2048);
    options.scorer = scorer;
    const auto plan = PlanCapacity(model, H200(), options, Load(32768));
    EXPECT_EQ(plan->whole.compress_seconds, 0);
    return plan->compact.compress_seconds;
  };
  const double votes = compress_seconds("snapkv");
  EXPECT_EQ(votes, CompressSeconds(model, H200(), 32768, 32));
  EXPECT_EQ(compress_seconds("keydiff"), votes);
  const double of_all =
      CompressSeconds(model, H200(), 32768, 16384) - CompressSeconds(model, H200(), 32768, 0);
  EXPECT_NEAR(compress_seconds("h2o") - votes, of_all, 1e-9 * of_all);
}

TEST(PlanCapacity, SaysWhatCannotBe) {
  const PlannedModel model = Model("llama-3.1-8b");
  const auto error = [&](const PlannedModel& of, PlannedLoad load) {
    return std::string(PlanCapacity(of, H200(), Kept(2048), load).status().message());
  };
  for (const double gbps : {0.0, -1.0, 1e-300, 1e7, HUGE_VAL, std::nan("")}) {
    EXPECT_THAT(
        error(model, Load(16384, gbps)),
        HasSubstr(absl::StrCat("--link_gbps is ", gbps, "; wanted a number from 0.001 to")));
  }
  PlannedLoad load = Load(16384);
  load.requests_per_second = -1;
  EXPECT_THAT(error(model, load), HasSubstr("--rate is -1"));
  EXPECT_THAT(error(Model("llama-3.1-70b"), Load(16384)),
              HasSubstr("the weights of llama-3.1-70b"));
}

TEST(ExposedSeconds, IsTheLastLayerOrWhatTheLinkIsBehind) {
  EXPECT_DOUBLE_EQ(ExposedSeconds(4, 8, 4), 1);       // a layer's second, the others hidden
  EXPECT_DOUBLE_EQ(ExposedSeconds(4, 8, 16), 4 + 6);  // three layers of 4 s against those of 2 s
}

TEST(ParseGpu, ReadsNamesAndNumbers) {
  EXPECT_EQ(ParseGpu("989:4800:141")->flops, H200().flops);
  EXPECT_EQ(ParseGpu("0.5:40:16")->bytes_per_second, 40e9);
  for (const char* text : {"", "h300", "1:2", "1:2:3:4", "1:-2:3", "1:2:x", "nan:1:1", "inf:1:1",
                           "989:4800:1e300", "1e-300:4800:141"}) {
    EXPECT_THAT(std::string(ParseGpu(text).status().message()),
                HasSubstr(absl::StrCat("--gpu is '", text, "'; wanted")))
        << text;
  }
}

TEST(ReadPlannedModel, ReadsADirectory) {
  const auto model = ReadPlannedModel(KVSHIP_GOLDENS "/models/llama");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->name, "llama");
  EXPECT_GT(model->weight_bytes, model->step_bytes);
  EXPECT_EQ(ReadPlannedModel("no-such").status().code(), absl::StatusCode::kNotFound);
}

// As Mistral's repositories have consolidated.safetensors beside the shards.
TEST(ReadPlannedModel, CountsWeightsThatADirectoryHasTwiceOnce) {
  const TempFolder folder;
  folder.Write("config.json", ReadBytes(KVSHIP_GOLDENS "/models/llama/config.json"));
  const auto weight_bytes = [&folder] { return ReadPlannedModel(folder.path())->weight_bytes; };
  const double from_shape = weight_bytes();
  EXPECT_GT(from_shape, 300);
  folder.Write("consolidated.safetensors", std::string(300, ' '));
  EXPECT_EQ(weight_bytes(), from_shape);
  folder.Write("model.safetensors.index.json", R"({"weight_map": {"a": "1.safetensors",)"
                                               R"( "b": "2.safetensors", "c": "2.safetensors"}})");
  EXPECT_EQ(weight_bytes(), from_shape);
  folder.Write("1.safetensors", std::string(100, ' '));
  EXPECT_EQ(ReadPlannedModel(folder.path()).status().message(),
            folder.path() +
                "/2.safetensors is missing, but not all shards of the weights are; "
                "wanted all or none");
  folder.Write("2.safetensors", std::string(200, ' '));
  EXPECT_EQ(weight_bytes(), 300);
  folder.Write("model.safetensors", std::string(70, ' '));
  EXPECT_EQ(weight_bytes(), 70);
}

TEST(ReadPlannedModel, KnowsHowManyWeightsTheShapesHave) {
  // As their publishers count them, in billions.
  const std::pair<const char*, double> counts[] = {
      {"llama-2-7b", 6.74},   {"llama-3.1-8b", 8.03},  {"llama-3.1-70b", 70.6},
      {"mistral-7b", 7.25},   {"qwen2.5-7b", 7.62},    {"qwen3-8b", 8.19},
      {"qwen3-32b", 32.8},    {"smollm2-135m", 0.135}, {"mixtral-8x7b", 46.7},
      {"qwen3-30b-a3b", 30.5}};
  for (const auto& [name, billions] : counts) {
    EXPECT_NEAR(Model(name).weight_bytes / 2e9, billions, 0.006 * billions) << name;
  }
}

TEST(ReadPlannedModel, CountsTheExpertsOfATokenAndThoseOfABatch) {
  const PlannedModel model = Model("mixtral-8x7b");
  // 12.9 billion weights of 46.7 for a token, as its publisher counts; the embedding among them.
  EXPECT_NEAR(model.layer_weights + 2 * model.output_weights, 12.9e9, 0.006 * 12.9e9);
  const Gpu gpu{"", 1e18, 1e12, 1e12};
  const double one = StepSeconds(model, gpu, 1, 0), many = StepSeconds(model, gpu, 64, 0);
  EXPECT_NEAR(many - one, 0.75 * model.experts_bytes / 0.92e12, 0.01 * (many - one));
  EXPECT_NEAR(model.step_bytes + model.experts_bytes + 2 * model.output_weights, model.weight_bytes,
              1);
  EXPECT_EQ(Model("mistral-7b").experts_bytes, 0);
}

TEST(ReadPlannedModel, ReadsAMixture) {
  const auto model = ReadPlannedModel(KVSHIP_GOLDENS "/models/mixtral");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->chosen_share, 0.5);
  EXPECT_EQ(model->layer_weights, 2 * (12 * 16 * 64 + 2 * 3 * 128 * 64));
}

TEST(PlanText, SaysTheSameInBothForms) {
  PlanRecord record = {.model = Model("llama-3.1-8b"),
                       .gpu = H200(),
                       .load = Load(32768),
                       .compression = FormatCompression(Kept(2048))};
  record.plan = *PlanCapacity(record.model, record.gpu, Kept(2048), record.load);
  const Json json = Json::parse(PlanJson(record));
  EXPECT_EQ(json["whole"]["shipped_bytes"], 4294967296);
  EXPECT_EQ(json["compact"]["shipped_bytes"], 270532608);
  EXPECT_EQ(json["compact"]["kept_tokens"], 2048);
  EXPECT_EQ(json["compact"]["sessions_per_gpu"], 330);
  const std::string table = PlanTable(record);
  EXPECT_THAT(table, HasSubstr("4.29 GB       270.5 MB"));
  EXPECT_THAT(table, HasSubstr("25            330"));
  EXPECT_THAT(table, HasSubstr("1.0 x         15.9 x"));
  EXPECT_TRUE(json["load"]["slo_between_tokens_ms"].is_null());
  record.load.most_seconds_per_token = 0.05;
  EXPECT_EQ(Json::parse(PlanJson(record))["load"]["slo_between_tokens_ms"], 50);
}

TEST(PlanText, SaysWhereALoadIsLongerThanTheContext) {
  PlanRecord record = {.model = Model("smollm2-135m"), .gpu = H200(), .load = Load(7680)};
  record.plan = *PlanCapacity(record.model, record.gpu, Kept(2048), record.load);
  EXPECT_THAT(PlanTable(record), Not(HasSubstr("context")));
  record.load.prompt_tokens += 1;
  EXPECT_THAT(PlanTable(record), HasSubstr("The context of smollm2-135m is 8192 tokens: a node "
                                           "refuses prompt and output of 8193"));
  EXPECT_EQ(Json::parse(PlanJson(record))["model"]["context_tokens"], 8192);
}

}  // namespace
}  // namespace kvship
