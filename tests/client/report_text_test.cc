#include "client/report_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "client/progress_line.h"

namespace kvship {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

Answer ShortAnswer() {
  Answer answer;
  answer.text = "yes \"\u20ac\"";
  for (uint32_t id : {7, 9}) answer.tokens.emplace_back().set_token_id(id);
  answer.report.set_finish_reason(v1::GenerateReport::FINISH_REASON_STOP);
  answer.report.mutable_usage()->set_prompt_tokens(4096);
  answer.report.mutable_usage()->set_output_tokens(2);
  v1::KvReport& kv = *answer.report.mutable_kv();
  kv.set_uncompressed_bytes(64 << 20);
  kv.set_shipped_bytes(8 << 20);
  kv.mutable_compression()->set_scorer("snapkv");
  kv.mutable_compression()->set_budget_ratio(0.5);
  kv.set_transport("grpc");
  answer.report.mutable_timing()->set_first_token_ms(12.5);
  return answer;
}

TEST(ReportTextTest, RecordHasTheNamesOfTheProto) {
  const json record = json::parse(AnswerJson(ShortAnswer()));
  EXPECT_EQ(record["text"], "yes \"\u20ac\"");
  EXPECT_EQ(record["tokens"], json({7, 9}));
  EXPECT_EQ(record["finish_reason"], "stop");
  EXPECT_EQ(record["usage"]["prompt_tokens"], 4096);
  EXPECT_EQ(record["kv"]["shipped_bytes"], 8 << 20);
  EXPECT_EQ(record["kv"]["compression"]["budget_ratio"], 0.5);
  EXPECT_FALSE(record["kv"]["compression"].contains("window"));
  EXPECT_EQ(record["timing"]["first_token_ms"], 12.5);
  EXPECT_EQ(record["timing"]["tokens_per_second"], 0);
  EXPECT_FALSE(record.contains("logprobs"));
}

TEST(ReportTextTest, LogprobsAreThereWhenTheyWereAskedFor) {
  Answer answer = ShortAnswer();
  answer.tokens[0].set_logprob(-0.5f);
  v1::TokenLogprob& top = *answer.tokens[0].add_top();
  top.set_token_id(8);
  top.set_logprob(-0.25f);
  const json record = json::parse(AnswerJson(answer));
  EXPECT_EQ(record["logprobs"][0]["logprob"], -0.5);
  EXPECT_EQ(record["logprobs"][0]["top"][0]["token_id"], 8);
}

TEST(ReportTextTest, TableSaysHowMuchLessWasShipped) {
  const std::string table = ReportTable(ShortAnswer().report);
  EXPECT_THAT(table, HasSubstr("8.00 MiB (8.0x less) by grpc"));
  EXPECT_THAT(table, HasSubstr("scorer=snapkv,budget_ratio=0.5"));
}

TEST(ReportTextTest, ProgressIsInWords) {
  v1::GenerateProgress progress;
  progress.set_phase(v1::GenerateProgress::PHASE_QUEUED);
  EXPECT_EQ(ProgressText(progress, 1), "queued");
  progress.set_phase(v1::GenerateProgress::PHASE_PREFILL);
  progress.set_prompt_tokens(4096);
  progress.set_fraction(0.435f);
  EXPECT_EQ(ProgressText(progress, 1), "reading the prompt of 4096 tokens: 43 %");
  EXPECT_EQ(ProgressText(progress, 20), "reading the prompt of 4096 tokens: 40 %");
}

}  // namespace
}  // namespace kvship
