// What the tests of the NCCL executor share: GPUs with executors that go forward only when a test
// says so, on a clock that it sets, and the messages that the services would exchange.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/transport/fake_nccl.h"
#include "transport/nccl_executor.h"

namespace kvship {

// Device memory that a transfer owns, with one value in all its bytes.
using FakeMemory = std::shared_ptr<std::vector<std::byte>>;

inline FakeMemory NewMemory(size_t num_bytes, int value) {
  return std::make_shared<std::vector<std::byte>>(num_bytes, static_cast<std::byte>(value));
}

// One executor with its GPU, and the aborts that wait for the test to run them.
struct NcclNode {
  std::string name;
  std::shared_ptr<FakeNccl::Gpu> gpu;
  std::shared_ptr<NcclExecutor> executor;
  std::deque<std::function<void()>> aborts;
  bool aborts_hang = false;

  void RunAborts() {
    while (!aborts.empty()) {
      std::exchange(aborts.front(), nullptr)();
      aborts.pop_front();
    }
  }
  NcclState StateOf(const NcclNode& peer) const {
    for (const NcclPeerSnapshot& one : executor->Snapshot().peers) {
      if (one.peer == peer.name) return one.state;
    }
    return NcclState::kAbsent;
  }
  NcclCounters counters() const { return executor->Snapshot().counters; }
};

// One transfer as both ends see it.
struct TestTransfer {
  NcclOffer offer;
  FakeMemory source, target;
  std::optional<absl::Status> sent = std::nullopt, received = std::nullopt;  // once answered

  NcclTransfer Sending(absl::Time deadline) { return Transfer(source, deadline, &sent); }
  NcclTransfer Receiving(absl::Time deadline) { return Transfer(target, deadline, &received); }

 private:
  static NcclTransfer Transfer(const FakeMemory& memory, absl::Time deadline,
                               std::optional<absl::Status>* answer) {
    return {.bytes = *memory,
            .owner = memory,
            .deadline = deadline,
            .on_done = [answer](const absl::Status& status) {
              EXPECT_FALSE(answer->has_value()) << "answered twice";
              *answer = status;
            }};
  }
};

class NcclTest : public ::testing::Test {
 protected:
  static constexpr absl::Duration kDeadline = absl::Milliseconds(200);

  ~NcclTest() override {
    for (const std::unique_ptr<NcclNode>& node : nodes_) {
      node->executor->Shutdown(absl::CancelledError("the test ends"));
      node->RunAborts();
    }
    EXPECT_THAT(network_.violations(), ::testing::IsEmpty());
  }

  NcclNode& NewNode(const std::string& name, const NcclOptions& options = {}) {
    nodes_.push_back(std::make_unique<NcclNode>());
    NcclNode* node = nodes_.back().get();
    node->name = name;
    node->gpu = network_.NewGpu(name);
    node->executor = NcclExecutor::Create(
                         node->gpu, options, [this] { return now_; },
                         [node](auto job) { node->aborts.push_back(std::move(job)); })
                         .value();
    return *node;
  }

  // Lets everybody do what can be done at this time.
  void Settle() {
    constexpr int kEnough = 12;
    for (int round = 0; round < kEnough; ++round) {
      for (const std::unique_ptr<NcclNode>& node : nodes_) {
        node->executor->Watch();
        node->executor->Advance();
        if (!node->aborts_hang) node->RunAborts();
      }
    }
  }
  void Pass(absl::Duration time) {
    now_ += time;
    Settle();
  }

  void Connect(NcclNode& sender, NcclNode& receiver) {
    const auto id = sender.executor->Invite(receiver.name);
    ASSERT_TRUE(id.ok()) << id.status();
    const absl::Status accepted = receiver.executor->Accept(sender.name, *id);
    ASSERT_TRUE(accepted.ok()) << accepted;
    Settle();
    ASSERT_EQ(sender.StateOf(receiver), NcclState::kReady);
    ASSERT_EQ(receiver.StateOf(sender), NcclState::kReady);
  }

  // A sender and a receiver, connected.
  struct Pair {
    NcclNode& prefill;
    NcclNode& decode;
  };
  Pair NewPair() {
    const Pair pair = {NewNode("prefill"), NewNode("decode")};
    Connect(pair.prefill, pair.decode);
    return pair;
  }

  // Offers a transfer, announces and accepts it. It is the fixture's: answers may come to its end.
  TestTransfer* Begin(NcclNode& sender, NcclNode& receiver, size_t num_bytes, int value) {
    TestTransfer* transfer = transfers_.emplace_back(std::make_unique<TestTransfer>()).get();
    transfer->source = NewMemory(num_bytes, value);
    transfer->target = NewMemory(num_bytes, 0);
    const auto ready = sender.executor->ReadyCommunicator(receiver.name);
    EXPECT_TRUE(ready.ok()) << ready.status();
    const auto offer = sender.executor->Offer(receiver.name, *ready, now_ + kDeadline);
    EXPECT_TRUE(offer.ok()) << offer.status();
    transfer->offer = *offer;
    const absl::Status accepted = receiver.executor->Receive(sender.name, transfer->offer,
                                                             transfer->Receiving(now_ + kDeadline));
    EXPECT_TRUE(accepted.ok()) << accepted;
    const absl::Status sent =
        sender.executor->Send(receiver.name, transfer->offer, transfer->Sending(now_ + kDeadline));
    EXPECT_TRUE(sent.ok()) << sent;
    return transfer;
  }

  static bool Moved(const TestTransfer& transfer) {
    return transfer.sent.has_value() && transfer.sent->ok() && transfer.received.has_value() &&
           transfer.received->ok() && *transfer.source == *transfer.target;
  }
  static bool Failed(const std::optional<absl::Status>& answer) {
    return answer.has_value() && absl::IsUnavailable(*answer);
  }

  absl::Time now_ = absl::UnixEpoch();
  FakeNccl network_{[this] { return now_; }};
  std::vector<std::unique_ptr<TestTransfer>> transfers_;
  std::vector<std::unique_ptr<NcclNode>> nodes_;
};

}  // namespace kvship
