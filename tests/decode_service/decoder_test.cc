// What the decode loop asks of the device that computes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "decode_service/decode_loop.h"
#include "engine/decode.h"
#include "tests/decode_service/tiny_node.h"

namespace kvship {
namespace {

using ::testing::Each;
using ::testing::ElementsAreArray;

// The CPU's, with a note of what was asked.
class NotedDecoder final : public Decoder {
 public:
  explicit NotedDecoder(const Transformer& model) : engine_(model, backend_, Arithmetic::kFast) {}

  absl::Status CheckPlan(const KvPlan&) const override {
    return absl::FailedPreconditionError("not here");
  }
  absl::Status Step(std::span<const Item> items) override {
    for (const Item& item : items) wanted_logits.push_back(item.wants_logits);
    return engine_.Step(items);
  }
  std::span<const float> logits(size_t item) const override { return engine_.logits(item); }
  int32_t drawn(size_t item) const override { return engine_.drawn(item); }

  std::vector<bool> wanted_logits;

 private:
  Backend backend_{1};
  DecodeEngine engine_;
};

class DecoderTest : public ::testing::Test {
 protected:
  // The tokens of a request of its own, read to the end.
  std::vector<int32_t> Answer(OutputOptions options) {
    decoder_.wanted_logits.clear();
    DecodeLoop loop(decoder_, threads_, node_.metrics, 4);
    Reader reader;
    std::atomic<bool> ended = false;
    TinyNode::Prefilled prefilled = node_.Prefill(prompt_, kCompression, options.max_tokens - 1);
    const OutputToken first = *SampleToken(prefilled.logits, options.sampling, 0, 0);
    auto session = std::make_unique<Session>(std::move(options), nullptr,
                                             std::move(prefilled.cache), reader.responses,
                                             [&ended](const Session::End&) { ended = true; });
    session->Take(first);
    loop.Join(std::move(session));
    EXPECT_TRUE(reader.ReadUntil([&] { return ended.load(); }));
    while (reader.Take()) {
    }
    return reader.tokens;
  }

  static constexpr char kCompression[] = "budget_tokens=40,window=8,kernel=7";
  TinyNode node_;
  const std::vector<int32_t> prompt_ = node_.Prompt(90, 1);
  NotedDecoder decoder_{*node_.model.transformer};
  ThreadPool threads_{2};
};

TEST_F(DecoderTest, OutputNeedsNoLogits) {
  EXPECT_THAT(Answer({.max_tokens = 12}),
              ElementsAreArray(node_.Reference(prompt_, kCompression, 12)));
  EXPECT_THAT(decoder_.wanted_logits, Each(false));
  EXPECT_EQ(decoder_.wanted_logits.size(), 11u);
  const SamplingOptions sampling = {.temperature = 1, .seed = 3};
  const std::vector<int32_t> drawn = Answer({.sampling = sampling, .max_tokens = 12});
  EXPECT_THAT(decoder_.wanted_logits, Each(false));
  EXPECT_THAT(Answer({.sampling = sampling, .max_tokens = 12, .num_logprobs = 1}),
              ElementsAreArray(drawn))
      << "drawn from logits by the session";
}

TEST_F(DecoderTest, LogprobsNeedThem) {
  EXPECT_THAT(Answer({.max_tokens = 4, .num_logprobs = 1}),
              ElementsAreArray(node_.Reference(prompt_, kCompression, 4)));
  EXPECT_THAT(decoder_.wanted_logits, Each(true));
}

TEST_F(DecoderTest, WhatChangesTheLogitsNeedsThem) {
  const std::vector<int32_t> plain = node_.Reference(prompt_, kCompression, 12);
  // So small that it changes no answer.
  EXPECT_THAT(Answer({.sampling = {.presence_penalty = 1e-6}, .max_tokens = 12}),
              ElementsAreArray(plain));
  EXPECT_THAT(decoder_.wanted_logits, Each(true));
  EXPECT_THAT(Answer({.sampling = {.logit_bias = {{7, 100.0f}}}, .max_tokens = 5}), Each(7));
  EXPECT_THAT(decoder_.wanted_logits, Each(true));
}

TEST_F(DecoderTest, PenaltiesCountTheWholeOutput) {
  // Ever one of the two that is behind by less than what the model makes of them.
  const SamplingOptions sampling = {.frequency_penalty = 2,
                                    .logit_bias = {{7, 100.0f}, {8, 100.0f}}};
  const std::vector<int32_t> answer = Answer({.sampling = sampling, .max_tokens = 20});
  EXPECT_THAT(answer, Each(testing::AnyOf(7, 8)));
  EXPECT_NEAR(static_cast<double>(std::count(answer.begin(), answer.end(), 7)), 10, 2);
}

TEST_F(DecoderTest, PlansAreRefusedBeforeTheyJoin) {
  const DecodeLoop loop(decoder_, threads_, node_.metrics, 4);
  EXPECT_EQ(loop.CheckPlan(KvPlan()), absl::FailedPreconditionError("not here"));
}

}  // namespace
}  // namespace kvship
