// `kvship bench`, the program, against two real processes: what it counts and prints.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "tests/e2e/processes.h"
#include "tests/temp_folder.h"

namespace kvship {
namespace {

using nlohmann::json;
using ::testing::ContainsRegex;
using ::testing::ElementsAre;

constexpr char kModel[] = KVSHIP_GOLDENS "/models/llama";

class BenchTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(prefill_.WaitUntilReady() && decode_.WaitUntilReady()); }

  // What a run with these flags prints on standard output; its other lines go to `errors`.
  json Run(std::vector<std::string> flags, std::string* errors) {
    flags.insert(flags.begin(), {"bench", "--server=" + decode_.address(), "--json"});
    Process bench("kvship", flags);
    EXPECT_EQ(bench.Wait(absl::Minutes(2)), 0) << bench.Errors();
    *errors = bench.Errors();
    return json::parse(bench.Output());
  }

  Server prefill_{"kvship-prefill", kModel, {"--threads=1"}};
  Server decode_{
      "kvship-decode", kModel, {"--threads=1", absl::StrCat("--prefill=", prefill_.address())}};
};

// Eleven requests in 2.5 s; the last one is longer than the model's context.
std::string Trace() {
  std::string lines;
  for (int i = 0; i < 10; ++i) {
    absl::StrAppend(&lines, R"({"timestamp": )", 7000 + 250 * i, R"(, "input_length": )",
                    20 + 30 * i, R"(, "output_length": )", 4 + i, "}\n");
  }
  return lines + R"({"timestamp": 9500, "input_length": 5000, "output_length": 4})" + "\n";
}

TEST_F(BenchTest, ATraceIsReplayedAndWhatBecameOfItCounted) {
  const TempFolder folder;
  std::string progress;
  const json record = Run({"--trace=" + folder.Write("trace.jsonl", Trace()), "--progress",
                           "--slo_first_token=30s", "--slo_between_tokens=10s"},
                          &progress);
  std::vector<std::string> names;
  for (const auto& [name, value] : record.items()) names.push_back(name);
  EXPECT_THAT(names, ElementsAre("between_tokens_ms", "errors", "first_token_ms", "good",
                                 "goodput_per_second", "output_tokens_per_second",
                                 "prompt_tokens_per_second", "requests", "requests_per_second",
                                 "reused_tokens", "seconds", "shipped_bytes", "succeeded",
                                 "total_ms", "uncompressed_bytes"));
  EXPECT_EQ(record["requests"], 11);
  EXPECT_EQ(record["succeeded"], 10);
  EXPECT_EQ(record["good"], 10);
  EXPECT_EQ(record["errors"], json({{"FAILED_PRECONDITION", 1}}));
  const double seconds = record["seconds"];
  EXPECT_GE(seconds, 2.5) << "requests are sent at their times";
  EXPECT_DOUBLE_EQ(record["goodput_per_second"], 10 / seconds);
  EXPECT_DOUBLE_EQ(record["prompt_tokens_per_second"], (10 * 20 + 30 * 45) / seconds);
  EXPECT_DOUBLE_EQ(record["output_tokens_per_second"], (10 * 4 + 45) / seconds);
  for (const auto& [name, count] :
       {std::pair("first_token_ms", 10), std::pair("between_tokens_ms", 10 * 3 + 45),
        std::pair("total_ms", 10)}) {
    const json& times = record[name];
    EXPECT_EQ(times["count"], count) << name;
    double last = 0;
    for (const char* share : {"p50", "p90", "p95", "p99", "p99.9", "max"}) {
      EXPECT_GE(times[share], last) << name << " " << share;
      last = times[share];
    }
  }
  EXPECT_GT(record["uncompressed_bytes"], 0);
  EXPECT_THAT(progress, ContainsRegex("1\\.[0-9] s: [0-9]+ sent, [0-9]+ running, [0-9]+ succeeded, "
                                      "0 failed"));
  std::cout << "kvship bench: " << record.dump() << std::endl;
}

TEST_F(BenchTest, OfATraceTheFirstRequestsAreSentWhereOnlySoManyAreWanted) {
  const TempFolder folder;
  std::string progress;
  const json record =
      Run({"--trace=" + folder.Write("trace.jsonl", Trace()), "--requests=2"}, &progress);
  EXPECT_EQ(record["requests"], 2);
  EXPECT_EQ(record["between_tokens_ms"]["count"], 3 + 4);
}

TEST_F(BenchTest, WhatMissesItsTargetIsNotGood) {
  std::string progress;
  const json record = Run({"--rate=50", "--requests=10", "--prompt_tokens=uniform:20:60",
                           "--output_tokens=3", "--slo_first_token=1us", "--progress=false"},
                          &progress);
  EXPECT_EQ(record["succeeded"], 10);
  EXPECT_EQ(record["good"], 0);
  EXPECT_EQ(record["goodput_per_second"], 0);
  EXPECT_GT(record["requests_per_second"], 0);
}

}  // namespace
}  // namespace kvship
