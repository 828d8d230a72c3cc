// Sweeps of a tiny model: their answers, and what is refused of their cases.
#include "tools/policy_sweep.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/engine/model_files.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

class PolicySweep : public ::testing::Test {
 protected:
  absl::Status Sweep(const std::string& text) {
    LocalRun run(*model_, {});
    std::istringstream cases(text);
    out_.str("");
    return SweepPolicies(run, *tokenizer_, chat_template_, cases, out_);
  }
  // A case with `fields` in the place of its own.
  static std::string Case(const nlohmann::json& fields = nlohmann::json::object()) {
    nlohmann::json one = {{"tokens", {5, 6, 7, 8, 9, 10}},
                          {"max_tokens", 3},
                          {"compressions", {"scorer=keep_all", "budget_tokens=4,window=2"}}};
    one.update(fields);
    return one.dump() + "\n";
  }

  const TempFolder folder_;
  const std::string path_ = folder_.Write("tiny.gguf", TinyGguf().Bytes());
  const std::unique_ptr<const Transformer> model_ = *LoadTransformer(path_);
  const std::unique_ptr<const Tokenizer> tokenizer_ = *Tokenizer::Load(path_);
  const ChatTemplate chat_template_ = *ChatTemplate::Load(path_, *tokenizer_);
  std::ostringstream out_;
};

TEST_F(PolicySweep, AnswersEachCaseUnderEachCompression) {
  const absl::Status status =
      Sweep(Case({{"oracle_tokens", 3}}) + Case({{"message", "the inn"}, {"tokens", nullptr}}));
  ASSERT_TRUE(status.ok()) << status;
  std::istringstream lines(out_.str());
  for (const bool has_recall : {true, false}) {
    std::string line;
    ASSERT_TRUE(std::getline(lines, line));
    const auto record = nlohmann::json::parse(line);
    ASSERT_EQ(record["answers"].size(), 2u);
    EXPECT_EQ(record["answers"][0]["kept_tokens"], record["prompt_tokens"]);
    EXPECT_EQ(record["answers"][1]["kept_tokens"], 4);
    EXPECT_EQ(record["answers"][1].contains("recall"), has_recall);
  }
}

TEST_F(PolicySweep, RefusesByLineAndFieldWhatIsNoCase) {
  const auto refusal = [this](const std::string& line) {
    const absl::Status status = Sweep(Case() + line + "\n");
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << line;
    return std::string(status.message());
  };
  EXPECT_THAT(refusal(""), HasSubstr("line 2: the case: is not valid JSON"));
  EXPECT_THAT(refusal(Case({{"tokens", {4294967297}}})),
              HasSubstr("line 2: the case: tokens holds 4294967297; wanted token ids"));
  EXPECT_THAT(refusal(Case({{"tokens", {1.9}}})), HasSubstr("tokens holds 1.9; wanted token ids"));
  EXPECT_THAT(refusal(Case({{"tokens", {40}}})), HasSubstr("tokens[0] is 40; wanted an id below"));
  EXPECT_THAT(refusal(Case({{"tokens", nlohmann::json::array()}})), HasSubstr("tokens is not a"));
  EXPECT_THAT(refusal(Case({{"tokens", nullptr}})), HasSubstr("message is missing"));
  EXPECT_THAT(refusal(Case({{"message", 7}})), HasSubstr("message is not a string"));
  for (const nlohmann::json& count : {nlohmann::json(-1), nlohmann::json(1.7)}) {
    for (const char* field : {"max_tokens", "oracle_tokens"}) {
      EXPECT_THAT(refusal(Case({{field, count}})),
                  HasSubstr(std::string(field) + " is not an integer of 0 or more"));
    }
  }
  EXPECT_THAT(refusal(Case({{"max_tokens", 0}})), HasSubstr("max_tokens is 0; wanted at least 1"));
  EXPECT_THAT(refusal(Case({{"max_tokens", 65}})), HasSubstr("wanted at most the model's context"));
  for (const char* compressions : {"[]", "[7]", "null", R"("scorer=keep_all")"}) {
    EXPECT_THAT(refusal(Case({{"compressions", nlohmann::json::parse(compressions)}})),
                HasSubstr("compressions is not a list of at least one string"));
  }
}

TEST_F(PolicySweep, OfNoCaseIsAnError) {
  EXPECT_EQ(Sweep("").message(), "cases are empty; wanted one JSON object a line");
}

}  // namespace
}  // namespace kvship
