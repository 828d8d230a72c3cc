// Which prefill node a prompt goes to, among servers that come, go and tell of themselves.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <barrier>
#include <future>
#include <map>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "rpc/errors.h"
#include "tests/decode_service/prefill_nodes_fixture.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

// On a port that the system gives to no connection, so that it is still free when the node returns.
std::unique_ptr<FakeNode> NodeThatCanReturn() {
  std::mt19937 random(std::random_device{}());
  for (;;) {
    const int port = std::uniform_int_distribution<int>(10'000, 32'767)(random);
    auto node = std::make_unique<FakeNode>(port);
    if (node->port() == port) return node;
  }
}

TEST_F(PrefillNodesTest, TheLessLoadedOfTwoByTheirOwnWord) {
  FakeNode busy;
  FakeNode free;
  busy.SetLoad(1000);
  Start({busy.address(), free.address()});
  ASSERT_TRUE(HasServing(2));
  EXPECT_EQ(StateOf(busy).load_tokens, 1000u);
  EXPECT_EQ(TimesChosen(free, 20), 20);
  busy.SetLoad(0);
  free.SetLoad(1);
  ASSERT_TRUE(
      Eventually([&] { return StateOf(busy).load_tokens == 0 && StateOf(free).load_tokens == 1; }));
  EXPECT_EQ(TimesChosen(busy, 20), 20);
}

TEST_F(PrefillNodesTest, TwoPromptsThatComeAtOnceGoToTwoFreeNodes) {
  FakeNode a;
  FakeNode b;
  Start({a.address(), b.address()}, /*check_interval=*/absl::Hours(1));
  ASSERT_TRUE(HasServing(2));
  for (int round = 0; round < 2000; ++round) {
    std::barrier at_once(2);
    const auto choose = [&] {
      at_once.arrive_and_wait();
      return *nodes_->Choose(kPrompt, "", {});
    };
    auto other = std::async(std::launch::async, choose);
    const PrefillNodes::Visit visits[] = {choose(), other.get()};
    ASSERT_NE(visits[0].node->address(), visits[1].node->address()) << "round " << round;
    for (const auto& visit : visits) nodes_->Ended(visit, absl::OkStatus());
  }
}

TEST_F(PrefillNodesTest, WhatWasSentSinceCounts) {
  FakeNode a;
  FakeNode b;
  a.SetLoad(100);
  Start({a.address(), b.address()}, /*check_interval=*/absl::Hours(1));
  ASSERT_TRUE(HasServing(2));
  std::vector<PrefillNodes::Visit> visits;
  std::map<std::string, int> times;
  // b takes 100 tokens; then they share.
  for (int i = 0; i < 30; ++i) {
    visits.push_back(*nodes_->Choose(kPrompt, "", {}));
    ++times[visits.back().node->address()];
  }
  EXPECT_NEAR(times[a.address()], 10, 1);
  EXPECT_NEAR(times[b.address()], 20, 1);
  for (const auto& visit : visits) nodes_->Ended(visit, absl::OkStatus());
}

TEST_F(PrefillNodesTest, OfManyTheMostLoadedGetsNothing) {
  std::vector<std::unique_ptr<FakeNode>> fakes;
  std::vector<std::string> targets;
  for (uint64_t i = 0; i < 4; ++i) {
    fakes.push_back(std::make_unique<FakeNode>());
    fakes.back()->SetLoad(100 * i);
    targets.push_back(fakes.back()->address());
  }
  Start(targets);
  ASSERT_TRUE(HasServing(4));
  EXPECT_EQ(TimesChosen(*fakes[3], 200), 0);
  EXPECT_GT(TimesChosen(*fakes[0], 200), 50) << "chosen whenever it is drawn: half of the time";
  EXPECT_GT(TimesChosen(*fakes[2], 200), 5) << "with one draw of two, not always the emptiest";
}

TEST_F(PrefillNodesTest, WhoDrainsLeavesTheChoiceBeforeItRefuses) {
  FakeNode draining;
  FakeNode other;
  Start({draining.address(), other.address()});
  ASSERT_TRUE(HasServing(2));
  draining.SetLoad(0, /*draining=*/true);
  ASSERT_TRUE(HasServing(1));
  EXPECT_EQ(TimesChosen(other, 20), 20);
  EXPECT_THAT(StateOf(draining).health, HasSubstr("shutting down"));
  EXPECT_EQ(Chosen({other.address()}), draining.address()) << "it may still take one";
  EXPECT_EQ(nodes_->CheckAnyAnswers(), absl::OkStatus());
  other.SetLoad(0, /*draining=*/true);
  ASSERT_TRUE(HasServing(0));
  EXPECT_THAT(std::string(nodes_->CheckAnyAnswers().message()), HasSubstr("shutting down"));
}

TEST_F(PrefillNodesTest, WhoSaysThatItIsStuckGetsNothing) {
  FakeNode stuck;
  FakeNode other;
  Start({stuck.address(), other.address()});
  ASSERT_TRUE(HasServing(2));
  stuck.SetStatus(
      WithReason(absl::UnavailableError("the engine has been in one step for 61 s"), kNotReady));
  ASSERT_TRUE(HasServing(1));
  EXPECT_EQ(TimesChosen(other, 20), 20);
  EXPECT_THAT(StateOf(stuck).health, HasSubstr("one step for 61 s"));
  EXPECT_THAT(Chosen({other.address()}), HasSubstr("one step for 61 s"));
}

TEST_F(PrefillNodesTest, WhoFailedIsUsedWhereNoOtherIsLeft) {
  FakeNode only;
  Start({only.address()});
  ASSERT_TRUE(HasServing(1));
  nodes_->Ended(*nodes_->Choose(kPrompt, "", {}), absl::DataLossError("broken cache"));
  EXPECT_THAT(StateOf(only).health, HasSubstr("broken cache"));
  EXPECT_GT(StateOf(only).ejected_for, absl::ZeroDuration());
  EXPECT_EQ(nodes_->CheckAnyAnswers(), absl::OkStatus());
  EXPECT_EQ(Chosen(), only.address());
  EXPECT_TRUE(StateOf(only).serving) << "the prompt succeeded";
}

TEST_F(PrefillNodesTest, WhoFailedIsLeftOutWhileOthersServe) {
  FakeNode failing;
  FakeNode other;
  other.SetLoad(1000);
  Start({failing.address(), other.address()});
  ASSERT_TRUE(HasServing(2));
  const auto visit = nodes_->Choose(kPrompt, "", {other.address()});
  nodes_->Ended(*visit, absl::UnavailableError("connection reset"));
  EXPECT_EQ(TimesChosen(other, 20), 20);
  EXPECT_TRUE(Eventually([&] { return Chosen() == failing.address(); })) << "it was probed";
  EXPECT_EQ(Chosen(), failing.address());
}

TEST_F(PrefillNodesTest, WhoIsGoneIsMissedAndWhoReturnsIsFound) {
  auto node = NodeThatCanReturn();
  const int port = node->port();
  Start({node->address()});
  ASSERT_TRUE(HasServing(1));
  node->Stop();
  ASSERT_TRUE(HasServing(0));
  EXPECT_THAT(std::string(nodes_->CheckAnyAnswers().message()),
              HasSubstr("no prefill node can serve: " + node->address() + ": "));
  EXPECT_EQ(Chosen(), node->address()) << "it may yet answer, and there is no other";
  EXPECT_THAT(Chosen({}, PrefillNode::Standing::kEjected), HasSubstr("no prefill node can serve"));
  node = std::make_unique<FakeNode>(port);
  EXPECT_TRUE(HasServing(1));
}

TEST_F(PrefillNodesTest, AnotherModelLeavesNobodyWhoCanServe) {
  FakeNode node;
  node.model.fill(std::byte{2});
  Start({node.address()});
  absl::Status status;
  EXPECT_TRUE(Eventually([&] {
    const auto visit = nodes_->Choose(kPrompt, "", {});
    status = visit.status();
    if (visit.ok()) nodes_->Ended(*visit, absl::CancelledError(""));
    return absl::StrContains(status.message(), "same model");
  })) << status;
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(nodes_->CheckAnyAnswers(), status) << "the request's error is that of the node";
}

TEST_F(PrefillNodesTest, AnotherServersPortIsSaidToBeOne) {
  FakeNode node;
  node.SetStatus(absl::UnimplementedError(""));
  Start({node.address()});
  EXPECT_TRUE(Eventually([&] {
    return absl::StrContains(StateOf(node).health, "it is no prefill node; wanted");
  })) << StateOf(node).health;
}

TEST_F(PrefillNodesTest, NewAddressesOfANameAreFoundAndOldOnesDropped) {
  FakeNode first;
  FakeNode second;
  SetName("dns:///prefill:1", {first.address()});
  Start({"dns:///prefill:1"});
  ASSERT_TRUE(HasServing(1));
  const auto visit = nodes_->Choose(kPrompt, "", {});

  SetName("dns:///prefill:1", {first.address(), second.address()});
  ASSERT_TRUE(HasServing(2));
  SetName("dns:///prefill:1", {second.address()});
  ASSERT_TRUE(HasServing(1));
  EXPECT_EQ(Chosen(), second.address());
  nodes_->Ended(*visit, absl::OkStatus());  // on a node that is no longer there

  // A name server that does not answer says nothing.
  SetName("dns:///prefill:1", {});
  second.WaitUntilTold();
  EXPECT_EQ(Chosen(), second.address());
}

TEST_F(PrefillNodesTest, NoAddressIsSaid) {
  SetName("dns:///prefill:1", {});
  Start({"dns:///prefill:1"});
  EXPECT_THAT(Chosen(), HasSubstr("no address found for dns:///prefill:1"));
}

TEST_F(PrefillNodesTest, MetricsCountNodesByStandingAndEjections) {
  FakeNode serving;
  FakeNode draining;
  draining.SetLoad(0, true);
  Start({serving.address(), draining.address()});
  ASSERT_TRUE(HasServing(1));
  const auto value = [this](const std::string& name, const std::string& label) {
    for (const auto& family : registry_.Collect()) {
      if (family.name != name) continue;
      for (const auto& metric : family.metric) {
        if (label.empty() || metric.label[0].value == label) {
          return metric.gauge.value + metric.counter.value;
        }
      }
    }
    return -1.0;
  };
  const char kNodes[] = "kvship_decode_prefill_nodes";
  EXPECT_TRUE(Eventually([&] { return value(kNodes, "draining") == 1; }));
  EXPECT_TRUE(Eventually([&] { return value(kNodes, "serving") == 1; }));
  EXPECT_EQ(value(kNodes, "ejected"), 0);
  nodes_->Ended(*nodes_->Choose(kPrompt, "", {}), absl::UnavailableError("lost"));
  EXPECT_EQ(value(kNodes, "ejected"), 1);
  EXPECT_EQ(value("kvship_decode_prefill_ejections_total", ""), 1);
}

TEST_F(PrefillNodesTest, ASilentNodeDoesNotHoldUpWordOfTheOthers) {
  FakeNode other;
  // Accepts connections and says nothing.
  const int silent = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t address_bytes = sizeof(address);
  ASSERT_EQ(bind(silent, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(silent, 8), 0);
  getsockname(silent, reinterpret_cast<sockaddr*>(&address), &address_bytes);
  Start({absl::StrCat("127.0.0.1:", ntohs(address.sin_port)), other.address()});
  ASSERT_TRUE(HasServing(1));
  const absl::Time begun = MonotonicNow();
  for (uint64_t i = 1; i < 6; ++i) {
    other.SetLoad(i);
    ASSERT_TRUE(Eventually([&] { return StateOf(other).load_tokens == i; }));
  }
  EXPECT_LT(MonotonicNow() - begun, absl::Seconds(2));
  nodes_.reset();
  close(silent);
}

}  // namespace
}  // namespace kvship
