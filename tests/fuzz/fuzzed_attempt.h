// The decode side of one Prefill stream, fed with the bytes that a prefill node might send. What
// fuzzers cannot guess is filled in for them: a frame's checksum of 0, a manifest without a
// digest and a message without a seal stand for the right ones.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "decode_service/prefill_attempt.h"
#include "kv/frames.h"

namespace kvship {

class FuzzedAttempt {
 public:
  // Kinds of plans: kept tokens, the whole prompt, budgets shared among heads, quantized with a
  // window in full precision.
  static constexpr size_t kKinds = 4;

  explicit FuzzedAttempt(size_t kind);
  // Ends the stream; requires that the attempt has ended once, and holds nothing.
  ~FuzzedAttempt();

  // A serialized PrefillResponse, which arrives in two pieces.
  void Receive(std::span<const std::byte> message);

  // What a node sends that does all right: Ready, the layers with their frames, the manifest.
  std::vector<std::string> RightMessages() const;

 private:
  static GenerationRequest RequestOf(size_t kind);
  void OnEnd(absl::StatusOr<PrefillAttempt::Result> result);
  void ReceiveFrame(FrameHeader header, BytePieces payload);
  void ReceiveOther(const std::string& bytes);
  Sha256Digest DigestOfFrames() const;

  const GenerationRequest request_;
  std::unique_ptr<ReservationQueue::Ticket> ticket_;
  std::shared_ptr<PrefillAttempt> attempt_;  // shared with its channel
  std::vector<FrameHeader> frames_;          // that came
  bool ended_ = false;
};

}  // namespace kvship
