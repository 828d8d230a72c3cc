// An attempt over a tiny node, whose prefill node is the test.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "decode_service/prefill_attempt.h"
#include "rpc/cache_messages.h"
#include "rpc/compression.h"
#include "rpc/sealed_message.h"
#include "rpc/wire_version.h"
#include "tests/decode_service/tiny_node.h"
#include "tests/decode_service/zero_layer.h"

namespace kvship {

// A channel whose other end is the test.
class RecordedChannel final : public Channel {
 public:
  void SendMessage(std::string message) override { sent.emplace_back().ParseFromString(message); }
  void Close(absl::Status status) override {
    if (!closed) closed = std::move(status);
  }

  std::vector<v1::PrefillRequest> sent;
  std::optional<absl::Status> closed;
};

class PrefillAttemptTest : public ::testing::Test {
 protected:
  static constexpr size_t kPromptTokens = 100;
  // With a whole prompt of 100 tokens, this fills all but 8 of the pool's 512 pages; a request
  // needs 12.
  static constexpr size_t kBlockingTail = 122 * kPageTokens;

  PrefillAttemptTest() {
    request_.tokens = node_.Prompt(kPromptTokens, 1);
    request_.compression = *ParseCompression("budget_tokens=40,window=8");
    request_.plan = *MakePlan(request_.compression, node_.shape, kPromptTokens);
    request_.output.max_tokens = 10;
    ticket_ =
        *node_.queue.Enter({.plan = request_.plan, .max_tail_tokens = request_.max_tail_tokens()});
    Start();
  }

  void Start(ReservationQueue::Cache cache = nullptr, PrefillAttempt::Connect connect = nullptr) {
    attempt_ = std::make_shared<PrefillAttempt>(
        request_, node_.model.identity,
        PrefillAttempt::Memory{node_.queue, *ticket_, std::move(cache)},
        [this](const v1::GenerateProgress& progress) { progress_.push_back(progress); },
        [this](absl::StatusOr<PrefillAttempt::Result> result) {
          EXPECT_FALSE(end_.has_value()) << "the end came twice";
          // What did not come to the request must be free when it hears of the end.
          if (!result.ok() && !pool_is_blocked_) {
            EXPECT_EQ(node_.pool->reserved_bytes(), 0u);
          }
          end_ = std::move(result);
        });
    channel_ = std::make_shared<RecordedChannel>();
    if (!connect) connect = [this](const std::shared_ptr<ChannelEvents>&) { return channel_; };
    attempt_->Open(connect);
  }

  void Send(const v1::PrefillResponse& message) {
    const std::string bytes = Sealed(message);
    attempt_->OnMessage(std::as_bytes(std::span(bytes)));
  }

  v1::PrefillResponse Ready() const {
    v1::PrefillResponse message;
    *message.mutable_ready()->mutable_wire_version() = WireVersionProto();
    message.mutable_ready()->add_transports("grpc");
    *message.mutable_ready()->mutable_plan() = PlanToProto(request_.plan);
    return message;
  }

  // Sends Ready of a node of an older version, which must end the attempt.
  void ExpectRefusesNode(uint32_t minor) {
    v1::PrefillResponse ready = Ready();
    ready.mutable_ready()->mutable_wire_version()->set_minor(minor);
    Send(ready);
    ASSERT_TRUE(end_.has_value());
    EXPECT_EQ(ReasonOf(end_->status()), kWireVersionMismatch) << end_->status();
  }

  // Sends layers of zeros, then the manifest; the functions see every frame, and the manifest,
  // before it is sent.
  using Change = std::function<void(FrameHeader&, std::vector<std::byte>&)>;
  using ChangeManifest = std::function<void(v1::PrefillManifest&)>;
  void SendCache(
      const Change& change = [](FrameHeader&, std::vector<std::byte>&) {},
      const ChangeManifest& change_manifest = [](v1::PrefillManifest&) {}) {
    FrameCutter cutter(/*most_frame_bytes=*/1000);
    for (size_t l = 0; l < node_.shape.num_layers; ++l) {
      const LayerFrames frames = cutter.Cut(ZeroLayer(request_.plan, l, 60));
      v1::PrefillResponse message;
      *message.mutable_layer() = LayerHeaderToProto(frames.header);
      Send(message);
      for (const Frame& frame : frames.frames) {
        FrameHeader header = frame.header;
        std::vector<std::byte> bytes(frame.payload.bytes.begin(), frame.payload.bytes.end());
        change(header, bytes);
        const std::span<const std::byte> piece(bytes);
        attempt_->OnFrame(header, {&piece, 1});
      }
    }
    v1::PrefillResponse message;
    ManifestToProto(cutter.Finish(kPromptTokens), message.mutable_manifest());
    message.mutable_manifest()->mutable_first_token()->set_token_id(7);
    change_manifest(*message.mutable_manifest());
    Send(message);
  }

  // What the pool's device says when it has written.
  std::function<absl::Status()> write_ = [] { return absl::OkStatus(); };
  TinyNode node_{1 << 20, [this](std::span<const KvPool::PageBytes> pages) {
                   for (const auto& [to, from] : pages) std::memcpy(to, from.data(), from.size());
                   return write_();
                 }};
  bool pool_is_blocked_ = false;
  GenerationRequest request_;
  std::unique_ptr<ReservationQueue::Ticket> ticket_;
  std::vector<v1::GenerateProgress> progress_;
  std::optional<absl::StatusOr<PrefillAttempt::Result>> end_;
  std::shared_ptr<RecordedChannel> channel_;
  std::shared_ptr<PrefillAttempt> attempt_;
};

}  // namespace kvship
