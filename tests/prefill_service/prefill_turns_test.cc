// In which order a prefill node reads what it was asked to read.
#include <gtest/gtest.h>

#include "base/clock.h"
#include "tests/prefill_service/prefill_node.h"
#include "tests/prefill_service/stalled_client.h"

namespace kvship {
namespace {

using Kind = v1::PrefillResponse::MessageCase;
using State = PrefillScheduler::Prompt::State;
using Calls = std::vector<std::shared_ptr<CollectedCall>>;

constexpr size_t kBlockTokens = 64;
// Deep enough that a long prompt is still being read when others come.
constexpr size_t kModelTimes = 32;

class PrefillTurns : public ::testing::Test {
 protected:
  std::shared_ptr<CollectedCall> Ask(PrefillNode& node, size_t num_tokens, bool says_go = true) {
    return CollectedCall::Start(
        node, node.Begin(RandomTokens(num_tokens, next_seed_++), "scorer=keep_all"),
        {.says_go = says_go});
  }
  static v1::PrefillManifest ManifestOf(CollectedCall& call) {
    EXPECT_EQ(call.WaitUntilClosed(), absl::OkStatus());
    return call.First(Kind::kManifest).manifest();
  }
  static bool HasEnded(CollectedCall& call) { return call.First(Kind::kManifest).has_manifest(); }
  static size_t NumRuns(const PrefillNode& node) {
    return static_cast<size_t>(node.Metric("kvship_prefill_run_requests"));
  }

  // Whether, while a long prompt is read, some of the `num_prompts` that `ask` has read share a
  // run. Asks anew, for who comes first may have been read before the next one comes.
  template <class Asks>
  bool SomeShareARun(PrefillNode& node, size_t num_prompts, const Asks& ask) {
    for (int round = 0; round < 20 && !HasFatalFailure(); ++round) {
      const auto slow = Ask(node, 1800);
      if (!slow->WaitFor(Kind::kProgress)) return false;
      const size_t num_runs = NumRuns(node);
      ask();
      const bool shared = NumRuns(node) - num_runs < num_prompts;
      slow->channel().Close(absl::CancelledError("enough"));
      if (shared) return true;
    }
    return false;
  }

  uint64_t next_seed_ = 1;
};

TEST_F(PrefillTurns, AShortPromptOvertakesALongOne) {
  PrefillNode node({}, kModelTimes, kBlockTokens);
  const auto slow = Ask(node, 1800);
  ASSERT_TRUE(slow->WaitFor(Kind::kProgress));
  const auto quick = Ask(node, 20);
  EXPECT_TRUE(ManifestOf(*quick).has_first_token());
  EXPECT_FALSE(HasEnded(*slow));
  EXPECT_TRUE(ManifestOf(*slow).has_first_token());
}

TEST_F(PrefillTurns, OvertakingChangesNothingInTheResult) {
  PrefillNode node({}, kModelTimes, kBlockTokens);
  const v1::PrefillBegin begin = node.Begin(RandomTokens(1000, 77), "budget_tokens=100");
  const auto alone = CollectedCall::Start(node, begin, {});
  const std::string digest = ManifestOf(*alone).digest();
  const auto overtaken = CollectedCall::Start(node, begin, {});
  ASSERT_TRUE(overtaken->WaitFor(Kind::kProgress));
  size_t num_overtaking = 0;
  for (int i = 0; i < 5; ++i) {
    ManifestOf(*Ask(node, 30));
    num_overtaking += !HasEnded(*overtaken);
  }
  EXPECT_GT(num_overtaking, 0u);
  EXPECT_EQ(ManifestOf(*overtaken).digest(), digest);
}

TEST_F(PrefillTurns, ALongPromptEndsThoughShortOnesKeepComing) {
  PrefillNode node({}, kModelTimes, kBlockTokens);
  const auto slow = Ask(node, 600);
  ASSERT_TRUE(slow->WaitFor(Kind::kProgress));
  const absl::Time give_up = absl::Now() + absl::Seconds(120);
  Calls others;
  size_t num_served = 0;
  while (!HasEnded(*slow) && absl::Now() < give_up) {
    while (others.size() < 12) others.push_back(Ask(node, 60));
    ManifestOf(*others.front());
    others.erase(others.begin());
    ++num_served;
  }
  EXPECT_TRUE(HasEnded(*slow));
  EXPECT_LT(num_served, 150u) << "hundreds come first where waiting counts for nothing";
}

TEST_F(PrefillTurns, ShortPromptsShareARun) {
  PrefillNode node({}, kModelTimes, kBlockTokens);
  const auto slow = Ask(node, 1800);
  ASSERT_TRUE(slow->WaitFor(Kind::kProgress));
  Calls calls;
  for (int i = 0; i < 12; ++i) calls.push_back(Ask(node, 15));
  for (const auto& call : calls) {
    while (!HasEnded(*call)) {
      for (const auto& prompt : node.scheduler.Prompts()) {
        ASSERT_GE(prompt.fraction, 0) << prompt.prompt_tokens << " tokens";
        ASSERT_LE(prompt.fraction, 1);
      }
    }
    EXPECT_TRUE(ManifestOf(*call).has_first_token());
  }
  EXPECT_LT(NumRuns(node), 12u);
}

TEST_F(PrefillTurns, AShortPromptGetsTheSameBytesInCompany) {
  PrefillNode node({}, kModelTimes, kBlockTokens);
  std::vector<v1::PrefillBegin> begins;
  std::vector<std::string> digests;
  for (size_t i = 0; i < 4; ++i) {
    begins.push_back(node.Begin(RandomTokens(14 + i, i), "budget_tokens=9,window=4,kernel=3"));
    digests.push_back(ManifestOf(*CollectedCall::Start(node, begins[i], {})).digest());
  }
  EXPECT_TRUE(SomeShareARun(node, begins.size(), [&] {
    Calls calls;
    for (const auto& begin : begins) calls.push_back(CollectedCall::Start(node, begin, {}));
    for (size_t i = 0; i < calls.size(); ++i) EXPECT_EQ(ManifestOf(*calls[i]).digest(), digests[i]);
  }));
}

TEST_F(PrefillTurns, WhoGivesUpDoesNotDisturbThoseReadWithIt) {
  PrefillNode node({}, 8 * kModelTimes, kBlockTokens);
  EXPECT_TRUE(SomeShareARun(node, 3, [&] {
    Calls calls;
    for (int i = 0; i < 4; ++i) calls.push_back(Ask(node, 15));
    for (const auto& call : calls) ASSERT_TRUE(call->WaitFor(Kind::kReady));
    calls[1]->channel().Close(absl::CancelledError("enough"));
    for (size_t i : {0u, 2u, 3u}) EXPECT_TRUE(ManifestOf(*calls[i]).has_first_token());
    EXPECT_TRUE(absl::IsCancelled(calls[1]->WaitUntilClosed()));
  }));
}

TEST_F(PrefillTurns, AClientThatDoesNotSayGoHoldsUpNobody) {
  PrefillNode node({}, 1, kBlockTokens);
  const auto silent = Ask(node, 100, /*says_go=*/false);
  ASSERT_TRUE(silent->WaitFor(Kind::kReady));
  EXPECT_TRUE(ManifestOf(*Ask(node, 200)).has_first_token());
  EXPECT_FALSE(HasEnded(*silent));
}

TEST_F(PrefillTurns, ManyClientsThatDoNotSayGoDoNotStopAnIdleEngine) {
  PrefillNode node({.go_timeout = absl::Minutes(10)}, 1, kBlockTokens);
  Calls silent;
  for (int i = 0; i < 60; ++i) silent.push_back(Ask(node, 100, /*says_go=*/false));
  const auto other = Ask(node, 200);
  // At half a second each they would take half a minute.
  EXPECT_TRUE(other->WaitFor(Kind::kManifest, absl::Seconds(15)));
}

TEST_F(PrefillTurns, ClientsThatDoNotSayGoTakeNobodysPlace) {
  PrefillNode node({.max_active_requests = 2, .go_timeout = absl::Minutes(10)}, 1, kBlockTokens);
  const Calls silent = {Ask(node, 20, /*says_go=*/false), Ask(node, 20, /*says_go=*/false)};
  for (const auto& call : silent) ASSERT_TRUE(call->WaitFor(Kind::kReady));
  EXPECT_TRUE(Ask(node, 200)->WaitFor(Kind::kManifest));
  for (const auto& call : silent) {
    call->SayGo();
    EXPECT_TRUE(ManifestOf(*call).has_first_token());
  }
}

TEST_F(PrefillTurns, WhoSaysGoLateWaitsForMemory) {
  const size_t room = PrefillRun::BytesFor(TinyModel().config(), 500, {});
  PrefillNode node({.max_active_bytes = room, .go_timeout = absl::Minutes(10)}, kModelTimes,
                   kBlockTokens);
  const auto late = Ask(node, 300, /*says_go=*/false);
  ASSERT_TRUE(late->WaitFor(Kind::kReady));
  const auto other = Ask(node, 490);
  ASSERT_TRUE(other->WaitFor(Kind::kProgress));
  late->SayGo();
  ASSERT_TRUE(late->WaitFor(Kind::kProgress));
  for (const auto& prompt : node.scheduler.Prompts()) {
    EXPECT_TRUE(prompt.prompt_tokens == 300 || prompt.state == State::kSending);
  }
  EXPECT_TRUE(ManifestOf(*late).has_first_token());
  EXPECT_TRUE(ManifestOf(*other).has_first_token());
}

TEST_F(PrefillTurns, OneWhoseReaderIsSlowTakesNobodysPlace) {
  PrefillScheduler::Options options;
  options.max_active_requests = 1;
  options.max_outbox_bytes = 1 << 20;
  options.stall_timeout = absl::Minutes(10);
  PrefillNode node(options, kModelTimes, kBlockTokens);
  StalledClient stalled(node.target(),
                        node.Begin(RandomTokens(2048, 1), "scorer=keep_all,encoder=f32"));
  EXPECT_TRUE(Ask(node, 200)->WaitFor(Kind::kManifest));
  EXPECT_TRUE(stalled.ReadAll().second.ok());
}

TEST_F(PrefillTurns, WhoseBeginningIsKnownComesBeforeWhoIsShorter) {
  PrefillNode node({.max_active_requests = 1}, kModelTimes, kBlockTokens,
                   16 * PrefillEngine::PrefixBlockBytes(TinyModel(kModelTimes).config()));
  const std::vector<int32_t> text = RandomTokens(1000, 100);
  const auto ask = [&node](const std::vector<int32_t>& tokens) {
    return CollectedCall::Start(node, node.Begin(tokens, "scorer=keep_all"), {});
  };
  EXPECT_EQ(ManifestOf(*ask(text)).reused_tokens(), 0u);
  const auto slow = Ask(node, 1800);
  ASSERT_TRUE(slow->WaitFor(Kind::kProgress));
  const auto unknown = Ask(node, 700);
  ASSERT_TRUE(unknown->WaitFor(Kind::kQueued));
  const auto known = ask(text);
  EXPECT_EQ(ManifestOf(*known).reused_tokens(), 768u);
  EXPECT_FALSE(HasEnded(*unknown));
  EXPECT_EQ(ManifestOf(*unknown).reused_tokens(), 0u);
}

TEST_F(PrefillTurns, APlaceThatChangesOftenIsToldOnce) {
  PrefillNode node({.max_active_requests = 1}, kModelTimes, kBlockTokens);
  const auto slow = Ask(node, 1800);
  ASSERT_TRUE(slow->WaitFor(Kind::kProgress));
  const auto last = Ask(node, 700);
  ASSERT_TRUE(last->WaitFor(Kind::kQueued));
  Calls shorter;
  for (int i = 0; i < 20; ++i) {
    shorter.push_back(Ask(node, 20));
    ASSERT_TRUE(shorter.back()->WaitFor(Kind::kQueued));
  }
  size_t num_told = 0;
  for (const auto& message : last->messages()) num_told += message.has_queued();
  EXPECT_EQ(num_told, 1u);
}

TEST_F(PrefillTurns, WhatHasAnotherSaltIsReadAnewAndOneThatHasTheSameIsNot) {
  PrefillNode node({}, kModelTimes, kBlockTokens,
                   16 * PrefillEngine::PrefixBlockBytes(TinyModel(kModelTimes).config()));
  const auto reused_tokens = [&node](const std::string& salt) {
    v1::PrefillBegin begin = node.Begin(RandomTokens(1000, 100), "scorer=keep_all");
    begin.set_cache_salt(salt);
    return ManifestOf(*CollectedCall::Start(node, begin, {})).reused_tokens();
  };
  EXPECT_EQ(reused_tokens(""), 0u);
  EXPECT_EQ(reused_tokens("mine"), 0u);
  EXPECT_EQ(reused_tokens("yours"), 0u);
  EXPECT_EQ(reused_tokens("mine"), 768u);
  EXPECT_EQ(reused_tokens(""), 768u);
}

TEST_F(PrefillTurns, RunsThatDoNotFitIntoMemoryTogetherComeOneAfterTheOther) {
  const size_t room = PrefillRun::BytesFor(TinyModel().config(), 500, {});
  PrefillNode node({.max_active_bytes = room}, kModelTimes, kBlockTokens);
  const auto first = Ask(node, 450);
  ASSERT_TRUE(first->WaitFor(Kind::kProgress));
  const auto second = Ask(node, 100);
  ASSERT_TRUE(second->WaitFor(Kind::kReady));
  for (const auto& prompt : node.scheduler.Prompts()) {
    EXPECT_TRUE(prompt.prompt_tokens == 100 || prompt.state == State::kSending);
  }
  EXPECT_TRUE(ManifestOf(*first).has_first_token());
  EXPECT_TRUE(ManifestOf(*second).has_first_token());
}

}  // namespace
}  // namespace kvship
