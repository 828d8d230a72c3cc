// Load plans, runs against a server in this process, and reports.
#include <gmock/gmock.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/load_report.h"
#include "tests/temp_folder.h"
#include "transport/grpc_status.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

double MeanOf(const LengthDistribution& lengths, size_t num_draws) {
  double sum = 0;
  for (size_t i = 0; i < num_draws; ++i) sum += static_cast<double>(lengths.Draw(1, i));
  return sum / static_cast<double>(num_draws);
}

TEST(LoadPlan, LengthsFollowTheirDistribution) {
  EXPECT_EQ(LengthDistribution::Parse("f", "512")->Draw(1, 2), 512u);
  EXPECT_NEAR(MeanOf(*LengthDistribution::Parse("f", "uniform:10:20"), 20000), 15, 0.1);
  // The mean of a lognormal is the median times exp(sigma^2 / 2); whole tokens take half a one.
  EXPECT_NEAR(MeanOf(*LengthDistribution::Parse("f", "lognormal:1000:0.5"), 20000),
              1000 * std::exp(0.125) - 0.5, 15);
}

TEST(LoadPlan, WrongLengthsAreRefused) {
  for (const char* text : {"", "0", "-3", "nan", "inf", "16777217", "100000000000", "uniform:5",
                           "uniform:9:5", "uniform:1:16777217", "lognormal:10:-1",
                           "lognormal:16777217:1", "zipf:1:2", "uniform:1:2:3"}) {
    const absl::Status status = LengthDistribution::Parse("--prompt_tokens", text).status();
    EXPECT_THAT(std::string(status.message()), HasSubstr("--prompt_tokens is")) << text;
  }
}

TEST(LoadPlan, NoDrawIsAboveTheBound) {
  EXPECT_EQ(LengthDistribution::Parse("f", "16777216")->Draw(1, 2), kMostPlannedTokens);
  const auto lengths = LengthDistribution::Parse("f", "lognormal:10000000:3");
  size_t longest = 0;
  for (size_t i = 0; i < 100; ++i) longest = std::max(longest, lengths->Draw(1, i));
  EXPECT_EQ(longest, kMostPlannedTokens);
}

TEST(LoadPlan, ArrivalsAreAPoissonProcess) {
  const auto plan = PlanPoisson({.num_requests = 20001, .requests_per_second = 50, .seed = 3});
  EXPECT_EQ(plan[0].at, absl::ZeroDuration());
  double sum = 0, squares = 0;
  for (size_t i = 1; i < plan.size(); ++i) {
    const double gap = absl::ToDoubleSeconds(plan[i].at - plan[i - 1].at);
    sum += gap;
    squares += gap * gap;
  }
  const double mean = sum / 20000;
  EXPECT_NEAR(mean, 0.02, 0.0005);
  // An exponential's standard deviation is its mean.
  EXPECT_NEAR(std::sqrt(squares / 20000 - mean * mean), mean, 0.001);
}

TEST(LoadPlan, FewArrivalsKeepTheRateToo) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const auto plan = PlanPoisson({.num_requests = 20, .requests_per_second = 2, .seed = seed});
    EXPECT_EQ(plan[0].at, absl::ZeroDuration());
    // The twenty gaps take 10 s, the last of them, which nobody waits for, hardly half of that.
    EXPECT_LT(plan[19].at, absl::Seconds(10)) << seed;
    EXPECT_GT(plan[19].at, absl::Seconds(5)) << seed;
  }
}

TEST(LoadPlan, ATraceIsReadFasterIfAskedTo) {
  const TempFolder folder;
  const std::string trace =
      R"({"timestamp": 3000, "input_length": 700, "output_length": 8, "x": 1,)"
      R"( "hash_ids": [7, 0]})"
      "\n\n"
      R"({"timestamp": 1000, "input_length": 20, "output_length": 0})"
      "\n";
  const auto plan = *ReadTrace(folder.Write("trace.jsonl", trace), 2);
  ASSERT_EQ(plan.size(), 2u);
  EXPECT_EQ(plan[0].at, absl::ZeroDuration());
  EXPECT_EQ(plan[0].prompt_tokens, 700u);
  EXPECT_EQ(plan[1].output_tokens, 1u);
  EXPECT_THAT(plan[0].block_ids, ElementsAre(7, 0));
  EXPECT_THAT(plan[1].block_ids, IsEmpty());
}

TEST(LoadPlan, PromptsShareTheBlocksThatATraceNamesAlike) {
  const auto prompt = [](size_t num_tokens, std::vector<uint64_t> block_ids, uint64_t index) {
    return PlannedPrompt({.at = {}, .prompt_tokens = num_tokens, .block_ids = std::move(block_ids)},
                         /*seed=*/1, index, /*vocab_tokens=*/100'000);
  };
  const auto num_common = [](const std::vector<uint32_t>& a, const std::vector<uint32_t>& b) {
    return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
  };
  const std::vector<uint32_t> first = prompt(1500, {3, 8, 1}, 0);
  EXPECT_EQ(first.size(), 1500u);
  EXPECT_EQ(num_common(first, prompt(1500, {3, 8, 1}, 1)), 1500);
  EXPECT_EQ(num_common(first, prompt(1400, {3, 8, 2}, 1)), 2 * kTraceBlockTokens);
  EXPECT_EQ(num_common(first, prompt(1300, {3, 8}, 1)), 2 * kTraceBlockTokens);
  EXPECT_EQ(num_common(first, prompt(1500, {8, 3, 1}, 1)), 0);
  EXPECT_EQ(num_common(prompt(50, {}, 0), prompt(50, {}, 1)), 0);
}

TEST(LoadPlan, ABrokenTraceIsRefusedByLineAndField) {
  const TempFolder folder;
  const auto message = [&folder](const std::string& trace) {
    const absl::Status status = ReadTrace(folder.Write("broken.jsonl", trace), 1).status();
    return std::string(status.message());
  };
  EXPECT_THAT(message(R"({"timestamp": 0, "input_length": 5, "output_length": 5})"
                      "\n"
                      R"({"timestamp": 1, "input_length": "5", "output_length": 5})"
                      "\n"),
              HasSubstr("broken.jsonl:2: field 'input_length'"));
  for (const char* field : {"timestamp", "input_length", "output_length"}) {
    nlohmann::json line = {{"timestamp", 0}, {"input_length", 5}, {"output_length", 5}};
    line[field] = 1e18;
    EXPECT_THAT(message(line.dump() + "\n"),
                HasSubstr(absl::StrCat("field '", field, "' is 1e+18; wanted a number from 0 to")));
  }
  for (const char* ids : {"5", "[1, -1]", R"(["1"])"}) {
    EXPECT_THAT(
        message(absl::StrCat(
            R"({"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": )", ids, "}\n")),
        HasSubstr("broken.jsonl:1: field 'hash_ids' is "));
  }
  EXPECT_EQ(ReadTrace(folder.path() + "/none", 1).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(ReadTrace(folder.path(), 1).status().message()),
              HasSubstr("is a directory; wanted a file of JSON lines"));
}

// Answers each request after a while with as many tokens as it asked for, one message each.
class SlowService final : public v1::GenerationService::Service {
 public:
  grpc::Status Generate(grpc::ServerContext*, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    if (request->tokens().ids_size() == 13) return ToGrpcStatus(absl::ResourceExhaustedError(""));
    // As a server does that closes its port.
    if (request->tokens().ids_size() == 14) return {grpc::StatusCode::CANCELLED, ""};
    most_running = std::max<int>(most_running, ++running);
    absl::SleepFor(absl::Milliseconds(30));
    for (uint32_t i = 0; i < request->max_tokens(); ++i) {
      v1::GenerateResponse response;
      response.mutable_output()->add_tokens()->set_token_id(i);
      writer->Write(response);
    }
    v1::GenerateResponse response;
    response.mutable_report()->mutable_usage()->set_output_tokens(request->max_tokens());
    response.mutable_report()->mutable_usage()->set_prompt_tokens(request->tokens().ids_size());
    writer->Write(response);
    --running;
    return grpc::Status::OK;
  }
  std::atomic<int> running = 0, most_running = 0;
};

class LoadRunTest : public ::testing::Test {
 protected:
  LoadRunTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    client_ = std::make_unique<GenerationClient>("127.0.0.1:" + std::to_string(port));
  }
  std::vector<LoadRequestResult> Run(LoadRun::Options options,
                                     const std::vector<PlannedRequest>& plan) {
    options.vocab_tokens = 100;
    return LoadRun(*client_, options).Run(plan, [](const LoadRun::Progress&) {});
  }
  static std::vector<PlannedRequest> AllAtOnce(size_t num_requests) {
    return std::vector<PlannedRequest>(
        num_requests, {.at = absl::ZeroDuration(), .prompt_tokens = 5, .output_tokens = 3});
  }

  SlowService service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<GenerationClient> client_;
};

TEST_F(LoadRunTest, AnOpenLoopSendsWhateverIsStillRunning) {
  const auto results = Run({}, AllAtOnce(8));
  for (const LoadRequestResult& result : results) {
    EXPECT_TRUE(result.status.ok()) << result.status;
    EXPECT_EQ(result.between_tokens.size(), 2u);
    EXPECT_GE(result.first_token, absl::Milliseconds(30));
  }
  EXPECT_GT(service_.most_running, 1);
}

TEST_F(LoadRunTest, AClosedLoopKeepsSoManyRunning) {
  EXPECT_EQ(Run({.max_in_flight = 2, .closed_loop = true}, AllAtOnce(8)).size(), 8u);
  EXPECT_EQ(service_.most_running, 2);
}

TEST_F(LoadRunTest, RequestsPastTheBoundAreNotSent) {
  const auto results = Run({.max_in_flight = 3}, AllAtOnce(8));
  size_t refused = 0;
  for (const auto& result : results) refused += absl::IsResourceExhausted(result.status);
  EXPECT_EQ(refused, 5u);
}

TEST_F(LoadRunTest, ErrorsAreCountedByCode) {
  std::vector<PlannedRequest> plan = AllAtOnce(4);
  plan[1].prompt_tokens = 13;
  plan[2].prompt_tokens = 14;
  const LoadReport report = MakeLoadReport(Run({}, plan), {}, absl::Seconds(1));
  EXPECT_EQ(report.total_ms.size(), 2u);
  EXPECT_EQ(report.errors.at("RESOURCE_EXHAUSTED"), 1u);
  EXPECT_EQ(report.errors.at("UNAVAILABLE"), 1u);
  EXPECT_EQ(report.output_tokens, 6u);
}

TEST(LoadReport, PercentilesAreTheNearestRanks) {
  const std::vector<double> values = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  EXPECT_EQ(Percentile(values, 0.5), 5);
  EXPECT_EQ(Percentile(values, 0.91), 10);
  EXPECT_EQ(Percentile(values, 1), 10);
  EXPECT_EQ(Percentile(values, 0.0001), 1);
  EXPECT_EQ(Percentile({}, 0.5), 0);
}

TEST(LoadReport, GoodRequestsMeetBothTargets) {
  const auto request = [](int first_ms, std::vector<absl::Duration> gaps) {
    return LoadRequestResult{.status = absl::OkStatus(),
                             .first_token = absl::Milliseconds(first_ms),
                             .total = absl::Seconds(1),
                             .between_tokens = std::move(gaps)};
  };
  const std::vector<LoadRequestResult> results = {
      request(100, {absl::Milliseconds(10), absl::Milliseconds(30)}),
      request(300, {absl::Milliseconds(10)}),
      request(100, {absl::Milliseconds(50)}),
      {.status = absl::UnavailableError("lost"), .first_token = {}, .total = {}}};
  const LatencyTargets targets = {.first_token = absl::Milliseconds(200),
                                  .between_tokens = absl::Milliseconds(20)};
  const LoadReport report = MakeLoadReport(results, targets, absl::Seconds(2));
  EXPECT_EQ(report.num_good, 1u);
  const auto json = LoadReportJson(report);
  EXPECT_EQ(json["goodput_per_second"], 0.5);
  EXPECT_EQ(json["errors"]["UNAVAILABLE"], 1);
  EXPECT_EQ(json["between_tokens_ms"]["count"], 4);
}

}  // namespace
}  // namespace kvship
