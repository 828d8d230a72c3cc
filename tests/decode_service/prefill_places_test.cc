// That a prompt goes to the prefill node that has its beginning.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "kv/prefix_digests.h"
#include "tests/decode_service/prefill_nodes_fixture.h"

namespace kvship {
namespace {

using ::testing::Each;

constexpr size_t kTextTokens = 16 * kPrefixBlockTokens;
constexpr size_t kQuestionTokens = 20;

class PrefillPlacesTest : public PrefillNodesTest {
 protected:
  // Starts two nodes that keep prefixes and are asked for their load once.
  void StartTwo() {
    for (FakeNode* fake : {&a_, &b_}) fake->KeepPrefixes();
    Start({a_.address(), b_.address()}, /*check_interval=*/absl::Hours(1));
    ASSERT_TRUE(HasServing(2));
  }
  // Sends a question about one text, which is under way until it is told to end.
  PrefillNodes::Visit Ask(size_t most_reused = SIZE_MAX) {
    std::vector<int32_t> prompt(kTextTokens, 7);
    prompt.insert(prompt.end(), kQuestionTokens, ++num_asked_);
    return *nodes_->Choose(prompt, "", {}, PrefillNode::Standing::kSilent, most_reused);
  }
  uint64_t LoadOf(const PrefillNodes::Visit& visit) { return visit.node->load_tokens(); }

  FakeNode a_, b_;
  int32_t num_asked_ = 0;
};

TEST_F(PrefillPlacesTest, PromptsThatBeginAlikeGoWhereTheirBeginningIs) {
  std::map<std::string, std::unique_ptr<FakeNode>> fakes;
  std::vector<std::string> targets;
  for (size_t i = 0; i < 4; ++i) {
    auto fake = std::make_unique<FakeNode>();
    fake->KeepPrefixes();
    targets.push_back(fake->address());
    fakes[targets.back()] = std::move(fake);
  }
  Start(targets);
  ASSERT_TRUE(HasServing(4));
  std::string salt;
  const auto ask = [this, &salt](int32_t question) {
    std::vector<int32_t> prompt(3 * kPrefixBlockTokens, 7);
    prompt.push_back(question);
    const PrefillNodes::Visit visit = *nodes_->Choose(prompt, salt, {});
    nodes_->Ended(visit, absl::OkStatus());
    return visit.node->address();
  };
  const std::string home = ask(0);
  const auto home_has_to_read = [&](uint64_t num_tokens) {
    fakes[home]->SetLoad(num_tokens);
    return Eventually([&] { return StateOf(*fakes[home]).load_tokens == num_tokens; });
  };
  for (int32_t i = 1; i < 20; ++i) EXPECT_EQ(ask(i), home);
  ASSERT_TRUE(home_has_to_read(3 * kPrefixBlockTokens - 1));
  for (int32_t i = 1; i < 20; ++i) EXPECT_EQ(ask(i), home);
  ASSERT_TRUE(home_has_to_read(3 * kPrefixBlockTokens + 1));
  const std::string next = ask(20);
  EXPECT_NE(next, home) << "reading all of it anew is done sooner";
  ASSERT_TRUE(home_has_to_read(0));
  for (int32_t i = 1; i < 20; ++i) EXPECT_EQ(ask(i), next);
  std::set<std::string> homes;
  for (size_t i = 0; i < 20; ++i) {
    salt = std::to_string(i);
    homes.insert(ask(0));
  }
  EXPECT_GT(homes.size(), 1u) << "a beginning with another salt is another one";
}

TEST_F(PrefillPlacesTest, WhatIsUnderWayCountsWithoutWhatItsNodeHas) {
  StartTwo();
  const PrefillNodes::Visit first = Ask();
  EXPECT_EQ(LoadOf(first), kTextTokens + kQuestionTokens);
  nodes_->Ended(first, absl::OkStatus());
  std::vector<PrefillNodes::Visit> visits;
  std::vector<std::string> places;
  for (size_t i = 1; i <= 8; ++i) {
    visits.push_back(Ask());
    places.push_back(visits.back().node->address());
    EXPECT_EQ(LoadOf(first), i * kQuestionTokens);
  }
  EXPECT_THAT(places, Each(first.node->address()));
  for (const auto& visit : visits) nodes_->Ended(visit, absl::OkStatus());
  EXPECT_EQ(LoadOf(first), 0u);
}

TEST_F(PrefillPlacesTest, APromptThatIsReadWholeCountsWholeWhereItsBeginningIs) {
  StartTwo();
  const PrefillNodes::Visit first = Ask();
  nodes_->Ended(first, absl::OkStatus());
  // Of h2o, say; the next one goes where less is to be read.
  const PrefillNodes::Visit whole = Ask(/*most_reused=*/0);
  EXPECT_EQ(LoadOf(whole), kTextTokens + kQuestionTokens);
  const PrefillNodes::Visit next = Ask(/*most_reused=*/0);
  EXPECT_NE(next.node, whole.node);
  for (const auto& visit : {whole, next}) nodes_->Ended(visit, absl::OkStatus());
}

TEST_F(PrefillPlacesTest, WhatObservesTheLastTokensReusesTheBlocksBefore) {
  StartTwo();
  const PrefillNodes::Visit first = Ask();
  nodes_->Ended(first, absl::OkStatus());
  const PrefillNodes::Visit visit = Ask(kTextTokens - 1);
  EXPECT_EQ(visit.node, first.node);
  EXPECT_EQ(LoadOf(visit), kPrefixBlockTokens + kQuestionTokens);
  nodes_->Ended(visit, absl::OkStatus());
}

}  // namespace
}  // namespace kvship
