#include "decode_service/decode_metrics.h"

#include <gtest/gtest.h>
#include <prometheus/counter.h>
#include <prometheus/text_serializer.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "decode_service/prefill_fault.h"
#include "decode_service/rejection.h"
#include "rpc/errors.h"

namespace kvship {
namespace {

class DecodeMetricsTest : public ::testing::Test {
 protected:
  // The value of a series, by its name and labels as Prometheus writes them; -1 if there is none.
  double Value(const std::string& series) const {
    const std::string text = prometheus::TextSerializer().Serialize(registry_.Collect());
    for (absl::string_view line : absl::StrSplit(text, '\n')) {
      const std::vector<std::string> words = absl::StrSplit(line, ' ');
      if (words.size() == 2 && words[0] == "kvship_decode_" + series) return std::stod(words[1]);
    }
    return -1;
  }

  static v1::GenerateReport Report(const std::string& encoder, uint64_t uncompressed_bytes,
                                   uint64_t shipped_bytes) {
    v1::GenerateReport report;
    report.mutable_timing()->set_transfer_ms(3);
    v1::KvReport& kv = *report.mutable_kv();
    kv.mutable_compression()->set_scorer("snapkv");
    kv.mutable_compression()->set_allocator("uniform");
    kv.mutable_compression()->set_selector("tokens");
    kv.mutable_compression()->set_encoder(encoder);
    kv.set_uncompressed_bytes(uncompressed_bytes);
    kv.set_shipped_bytes(shipped_bytes);
    kv.set_pool_bytes(shipped_bytes + 1);
    return report;
  }

  // The series of bytes of the policy with an encoder.
  double Bytes(const std::string& what, const std::string& encoder) const {
    return Value(absl::StrCat("kv_", what, "_bytes_total{allocator=\"uniform\",encoder=\"", encoder,
                              "\",scorer=\"snapkv\",selector=\"tokens\"}"));
  }

  prometheus::Registry registry_;
  DecodeMetrics metrics_{registry_};
};

TEST_F(DecodeMetricsTest, BytesAreCountedByPolicy) {
  metrics_.AddCache(Report("int4", 1000, 100), absl::Milliseconds(250));
  metrics_.AddCache(Report("int4", 1000, 100), absl::Milliseconds(250));
  metrics_.AddCache(Report("f16", 1000, 400), absl::ZeroDuration());
  EXPECT_EQ(Bytes("uncompressed", "int4"), 2000);
  EXPECT_EQ(Bytes("shipped", "int4"), 200);
  EXPECT_EQ(Bytes("saved", "int4"), 1800);
  EXPECT_EQ(Bytes("saved", "f16"), 600);
  EXPECT_EQ(Value("kv_receive_seconds_total"), 0.5);
  EXPECT_EQ(Value("transfer_seconds_count"), 3);
}

TEST_F(DecodeMetricsTest, ACacheLargerThanItsPromptSavesNothing) {
  metrics_.AddCache(Report("f16", 1000, 1004), absl::ZeroDuration());
  EXPECT_EQ(Bytes("saved", "f16"), 0);
}

TEST_F(DecodeMetricsTest, MemoryIsSavedWhileACacheIsInUse) {
  const v1::GenerateReport report = Report("int4", 1000, 99);
  metrics_.AddCache(report, absl::ZeroDuration());
  metrics_.AddCache(report, absl::ZeroDuration());
  EXPECT_EQ(Value("memory_saved_bytes"), 1800);
  metrics_.RemoveCache(report.kv());
  EXPECT_EQ(Value("memory_saved_bytes"), 900);
}

TEST_F(DecodeMetricsTest, WhatAlertsWatchIsThereBeforeItHappens) {
  EXPECT_EQ(Value("requests_total{code=\"RESOURCE_EXHAUSTED\"}"), 0);
  for (const char* code : {"UNAVAILABLE", "INTERNAL", "UNKNOWN", "DATA_LOSS"}) {
    EXPECT_EQ(Value(absl::StrCat("prefill_failures_total{code=\"", code, "\"}")), 0) << code;
  }
  for (const PrefillFault fault :
       {PrefillFault::kLost, PrefillFault::kBroken, PrefillFault::kFull, PrefillFault::kGaveUp,
        PrefillFault::kDraining, PrefillFault::kMismatch}) {
    const absl::string_view reason = NameOf(fault);
    EXPECT_EQ(Value(absl::StrCat("prefill_retries_total{reason=\"", reason, "\"}")), 0) << reason;
  }
  metrics_.CountPrefillFailure(absl::DataLossError("broken"));
  EXPECT_EQ(Value("prefill_failures_total{code=\"DATA_LOSS\"}"), 1);
}

TEST_F(DecodeMetricsTest, RejectionsAreCountedByWhatThereWasTooLittleOf) {
  const absl::Status rejected = absl::ResourceExhaustedError("full");
  metrics_.CountRequest(WithReason(rejected, kPoolFull), "");
  metrics_.CountRequest(WithReason(rejected, kPoolFull), "");
  metrics_.CountRequest(WithReason(rejected, kPrefillFull), "");
  metrics_.CountRequest(WithReason(rejected, "ONE_OF_A_LATER_VERSION"), "");
  metrics_.CountRequest(rejected, "");
  metrics_.CountRequest(WithReason(absl::UnavailableError("gone"), kPoolFull), "");
  EXPECT_EQ(Value("rejections_total{reason=\"pool\"}"), 2);
  EXPECT_EQ(Value("rejections_total{reason=\"prefill\"}"), 1);
  EXPECT_EQ(Value("rejections_total{reason=\"memory\"}"), 2);
  EXPECT_EQ(Value("rejections_total{reason=\"client\"}"), 0);
  EXPECT_EQ(Value("rejections_total{reason=\"http\"}"), 0);
}

TEST_F(DecodeMetricsTest, RequestsAndTokensAreCountedByClient) {
  v1::Usage usage;
  usage.set_prompt_tokens(1000);
  usage.set_reused_tokens(256);
  usage.set_output_tokens(20);
  metrics_.CountUsage(usage, "batch");
  metrics_.CountUsage(usage, "batch");
  metrics_.CountRequest(absl::OkStatus(), "batch");
  metrics_.CountRequest(absl::CancelledError(), "batch");
  EXPECT_EQ(Value("client_tokens_total{client=\"batch\",kind=\"prompt\"}"), 2000);
  EXPECT_EQ(Value("client_tokens_total{client=\"batch\",kind=\"reused\"}"), 512);
  EXPECT_EQ(Value("client_tokens_total{client=\"batch\",kind=\"output\"}"), 40);
  EXPECT_EQ(Value("client_requests_total{client=\"batch\",code=\"OK\"}"), 1);
  EXPECT_EQ(Value("client_requests_total{client=\"batch\",code=\"CANCELLED\"}"), 1);
  EXPECT_EQ(Value("requests_total{code=\"OK\"}"), 1);
}

TEST_F(DecodeMetricsTest, ClientsWithoutANameAreOne) {
  metrics_.CountRequest(absl::OkStatus(), "");
  metrics_.CountRequest(absl::UnauthenticatedError("unknown"), "");
  EXPECT_EQ(Value("client_requests_total{client=\"(none)\",code=\"OK\"}"), 1);
  EXPECT_EQ(Value("client_requests_total{client=\"(none)\",code=\"UNAUTHENTICATED\"}"), 1);
}

TEST_F(DecodeMetricsTest, ANameThatIsNotUtf8IsNoLabel) {
  metrics_.CountRequest(absl::OkStatus(), "caf\xe9");
  EXPECT_EQ(Value("client_requests_total{client=\"(others)\",code=\"OK\"}"), 1);
}

// Or whoever has many certificates would make as many series.
TEST_F(DecodeMetricsTest, ClientsBeyondAThousandAreOne) {
  for (size_t i = 0; i < 1002; ++i) {
    metrics_.CountRequest(absl::OkStatus(), absl::StrCat("client-", i));
  }
  metrics_.CountRequest(absl::OkStatus(), "client-0");
  EXPECT_EQ(Value("client_requests_total{client=\"client-0\",code=\"OK\"}"), 2);
  EXPECT_EQ(Value("client_requests_total{client=\"client-999\",code=\"OK\"}"), 1);
  EXPECT_EQ(Value("client_requests_total{client=\"client-1000\",code=\"OK\"}"), -1);
  EXPECT_EQ(Value("client_requests_total{client=\"(others)\",code=\"OK\"}"), 2);
}

TEST_F(DecodeMetricsTest, TimesUpToTheDeadlineAreToldApart) {
  metrics_.ObserveFirstToken(absl::Seconds(300));
  EXPECT_EQ(Value("time_to_first_token_seconds_bucket{le=\"200\"}"), 0);
  EXPECT_EQ(Value("time_to_first_token_seconds_bucket{le=\"400\"}"), 1);
  metrics_.ObserveBetweenTokens(absl::Seconds(4));
  EXPECT_EQ(Value("time_between_tokens_seconds_bucket{le=\"2.5\"}"), 0);
  EXPECT_EQ(Value("time_between_tokens_seconds_bucket{le=\"5\"}"), 1);
}

TEST_F(DecodeMetricsTest, TheModelIsALabel) {
  metrics_.SetModel("tiny");
  EXPECT_EQ(Value("model_info{model=\"tiny\"}"), 1);
}

}  // namespace
}  // namespace kvship
