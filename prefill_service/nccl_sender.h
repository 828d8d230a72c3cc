// NcclSender is a prefill node's end of one request's stream whose client has a GPU that NCCL
// reaches: a FrameChannel over the request's own. Each frame is announced and its bytes moved by
// NCCL where that is ready; where it is not, or when anything goes wrong, the frame goes over the
// channel as any other. Frames that are in the GPU's memory stay there, others are copied there
// first. A frame is kept until the client has confirmed its bytes. Everything else
// goes over the channel as it is. Thread safe; shared by whoever sends, by the call that reads what
// the client says, and by transfers under way.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvship/v1/prefill.pb.h"
#include "service/nccl_service.h"
#include "transport/channel.h"

namespace kvship {

class NcclSender final : public FrameChannel,
                         public StagedFrameSender,
                         public std::enable_shared_from_this<NcclSender> {
 public:
  // `caller` is the client by its certificate, if it has one, and `gpu` what it calls its GPU.
  // Borrows the service. `on_unsent` is called when unsent_bytes() has become less by a
  // confirmation.
  static std::shared_ptr<NcclSender> Create(NcclService& nccl, const std::string& caller,
                                            uint64_t gpu, std::shared_ptr<FrameChannel> channel,
                                            std::function<void()> on_unsent);

  // Finds the communicator with the client, and invites it where it has none, or another one than
  // this node. Once, before Begin.
  void Meet(const v1::NcclClient& client);
  // The client has chosen NCCL: before that all frames go over the channel.
  void Begin();
  // InvalidArgument if the client confirms what it has not accepted.
  absl::Status OnAnswer(const v1::NcclAnswer& answer);
  // The channel has sent something, or has ended.
  void OnSent();
  void OnClosed(const absl::Status& status);

  void SendMessage(std::string message) override { channel_->SendMessage(std::move(message)); }
  void SendFrame(const FrameHeader& header, SharedBytes payload) override;
  StagedFrameSender* staged_frames() override { return this; }
  std::vector<FrameStaging::BlockPtr> TakeFrames(size_t num_frames) override;
  void SendStagedFrame(const FrameHeader& header, FrameStaging::BlockPtr payload) override;
  // Bytes that are not confirmed among them.
  size_t unsent_bytes() const override;
  // After the transfers that the client has accepted, or may accept in their time, which otherwise
  // would cost the communicator; with OK, after all frames are confirmed.
  void Close(absl::Status status) override;

 private:
  struct Frame {
    FrameHeader header;
    SharedBytes payload;  // none where the block has it
    FrameStaging::BlockPtr block = nullptr;
    NcclOffer offer = {};
    bool accepted = false;
    absl::Time deadline = absl::InfinitePast();  // monotonic; from then on nobody moves it

    // Its bytes in host memory; may wait for their copy.
    absl::StatusOr<SharedBytes> OnHost() const;
  };

  NcclSender(NcclService& nccl, std::string peer, std::shared_ptr<FrameChannel> channel,
             std::function<void()> on_unsent);
  bool MayOffer() const;
  // Whether the frame may go by NCCL, from its block or one that it is given.
  bool Offer(Frame* frame);
  // Announces it, or sends it over the channel.
  void Send(Frame frame);
  void SendOverChannel(const Frame& frame);
  void SendOverChannelLocked(const FrameHeader& header, SharedBytes payload);
  void SendByNccl(Frame& frame);
  void OnLeft(uint32_t sequence, const absl::Status& status);
  // The frame is no more NCCL's; `over_channel` if its bytes have not arrived.
  void Resolve(uint32_t sequence, bool over_channel);
  absl::Time LastDeadlineLocked() const;
  void CloseWhenLateLocked();
  void Tell(const v1::NcclNotice& notice) const;
  void Break(uint64_t communicator, const char* why);

  NcclService& nccl_service_;  // while transfers are under way, as all of them end before it does
  const NcclEndpoint nccl_;
  NcclMetrics& metrics_;
  const std::string peer_;
  const std::shared_ptr<FrameChannel> channel_;  // shared: with the call
  const std::function<void()> on_unsent_;
  uint64_t communicator_ = 0;  // with the client, as Meet has found it; 0: none
  bool invited_ = false;       // to that, by this sender

  mutable std::mutex mutex_;
  bool begun_ = false;
  bool closed_ = false;
  std::map<uint32_t, Frame> frames_;  // announced and not confirmed, by sequence
  size_t unconfirmed_bytes_ = 0;      // and of those that the end of the stream has cut off
  std::optional<absl::Status> closing_;
  // The frames that have gone over the channel since it last had nothing to send.
  size_t busy_bytes_ = 0;
  absl::Time busy_since_;  // the first of them
};

}  // namespace kvship
