// PrefillAttempt is one try to have a prompt read by one prefill node: the decode side of one
// Prefill stream. It begins, reserves when the node is ready (or has the cache it was given),
// writes the frames into the reserved cache and ends with a cache whose manifest has been verified,
// or with an error; then everything it held is free. Thread safe; shared by its channel, which
// calls it, and by the request that may cancel it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/sha256.h"
#include "decode_service/generation_request.h"
#include "decode_service/nccl_receiver.h"
#include "decode_service/reservation_queue.h"
#include "kv/frames.h"
#include "kvship/v1/generation.pb.h"
#include "kvship/v1/prefill.pb.h"
#include "transport/channel.h"

namespace kvship {

class PrefillAttempt : public StagedFrameEvents,
                       public std::enable_shared_from_this<PrefillAttempt> {
 public:
  struct Result {
    ReservationQueue::Cache cache;
    OutputToken first_token;
    v1::KvReport kv;             // without `compression`
    v1::Timing timing;           // queue (on the node), prefill, compress and transfer
    uint32_t reused_tokens = 0;  // of the prompt
    // In which layers were coming in: from each one's header to its last byte in the pool.
    absl::Duration receive_time;
  };
  using OnProgress = std::function<void(const v1::GenerateProgress&)>;
  using OnEnd = std::function<void(absl::StatusOr<Result>)>;

  // Where the request's memory comes from.
  struct Memory {
    ReservationQueue& queue;
    ReservationQueue::Ticket& ticket;
    ReservationQueue::Cache cache;  // none: to be taken when the node is ready
  };

  // `request`, and the ticket of `memory`, must outlive the attempt's end. `on_progress` and
  // `on_end` come on threads of the transport; `on_end` once, the last, if Open was called.
  PrefillAttempt(const GenerationRequest& request, const Sha256Digest& model_identity,
                 Memory memory, OnProgress on_progress, OnEnd on_end);

  using Connect = std::function<std::shared_ptr<Channel>(std::shared_ptr<ChannelEvents>)>;
  // Opens the stream by `connect` and begins; once. With `nccl`, which transfers under way share,
  // frames may come by NCCL too.
  void Open(const Connect& connect, std::shared_ptr<NcclReceiver> nccl = nullptr);
  // Ends it with `why`, soon.
  void Cancel(const absl::Status& why);
  // After the end: whether it ended because the node was ready and our pool had no room.
  bool found_no_room() const;
  // After the end: whether it ended because this side failed, which says nothing of the node.
  bool failed_here() const;

  void OnMessage(std::span<const std::byte> message) override;
  void OnFrame(const FrameHeader& header, BytePieces payload) override;
  void OnStagedFrame(const FrameHeader& header, const FrameStaging::Block& payload) override;
  void OnClosed(const absl::Status& status) override;

 private:
  v1::PrefillRequest BeginMessage() const;
  // The oldest minor version of a node that understands all of the request.
  uint32_t OldestWireMinor() const;
  void Progress(v1::GenerateProgress::Phase phase, float fraction);
  absl::Status TakeMessage(std::span<const std::byte> bytes);
  absl::Status OnPrefillProgress(float fraction);
  using AddFrame = std::function<absl::Status(CacheReceiver&)>;
  void OnAnyFrame(const AddFrame& add);
  absl::Status OnReady(const v1::PrefillReady& ready);
  absl::Status TakeMemory();
  absl::Status OnManifest(const v1::PrefillManifest& manifest);
  absl::Time ComputedTime(const v1::PrefillManifest& manifest) const;
  // Ends the attempt with an error and the stream with it.
  void Fail(const absl::Status& error);
  void End(absl::StatusOr<Result> result);

  const GenerationRequest& request_;
  const Sha256Digest model_identity_;
  ReservationQueue& queue_;
  ReservationQueue::Ticket& ticket_;
  const OnProgress on_progress_;
  v1::WireVersion node_version_;  // none before Ready; used by events alone, one at a time

  mutable std::mutex mutex_;
  OnEnd on_end_;  // none once it has been called
  std::shared_ptr<Channel> channel_;
  std::shared_ptr<NcclReceiver> nccl_;  // set once, by Open; may be null
  ReservationQueue::Cache cache_;
  std::optional<CacheReceiver> receiver_;  // from Go on
  bool found_no_room_ = false;
  bool failed_here_ = false;
  std::optional<absl::Status> cancelled_;  // why
  // By the monotonic clock.
  absl::Time go_time_;
  absl::Time computed_time_;  // when the node's word came that its last layer was done
  absl::Time last_arrival_;   // of a layer's header or frame
  absl::Duration receive_time_;
};

}  // namespace kvship
