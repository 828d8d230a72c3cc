// NcclReceiver is a decode node's end of one Prefill stream over which frames may come by NCCL. It
// stands between the stream's channel and the attempt that it serves: it accepts what NCCL shall
// bring, checks it, and hands messages and frames on in the order in which they were sent, however
// each frame has travelled. Thread safe; shared by the channel, the attempt and transfers under
// way.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kvship/v1/prefill.pb.h"
#include "service/nccl_service.h"
#include "transport/channel.h"

namespace kvship {

class NcclReceiver final : public Channel,
                           public ChannelEvents,
                           public std::enable_shared_from_this<NcclReceiver> {
 public:
  using Connect = std::function<std::shared_ptr<Channel>(std::shared_ptr<ChannelEvents>)>;

  // `node` is the prefill node's address. More than `most_bytes` that wait for a frame before them
  // are no cache of the request's, and end the stream with DataLoss. Borrows the service.
  NcclReceiver(NcclService& nccl, std::string node, size_t most_bytes);

  // Opens the stream by `connect`; its events go to `events` from then on. Once.
  std::shared_ptr<Channel> Open(const Connect& connect, std::shared_ptr<StagedFrameEvents> events);
  // What the prefill node has to know.
  void AddTo(v1::PrefillBegin* begin) const;
  // How the frames came: as KvReport.transport.
  std::string transport() const;

  void OnMessage(std::span<const std::byte> message) override;
  void OnFrame(const FrameHeader& header, BytePieces payload) override;
  void OnClosed(const absl::Status& status) override;

  void SendMessage(std::string message) override { channel()->SendMessage(std::move(message)); }
  // After the transfers that were accepted, which otherwise would cost the communicator.
  void Close(absl::Status status) override;

 private:
  using BlockPtr = FrameStaging::BlockPtr;
  // What is handed on in its turn: a message, a frame, or the end.
  struct Item {
    enum class Kind { kMessage, kFrame, kEnd } kind = Kind::kMessage;
    bool is_there = true;  // of a frame: its bytes
    std::vector<std::byte> bytes = {};
    FrameHeader header = {};
    BlockPtr block = nullptr;  // has the bytes that NCCL brought
    absl::Status status = {};
  };

  std::shared_ptr<Channel> channel() const;
  void OnNotice(const v1::NcclNotice& notice);
  void OnInvitation(const std::string& invitation);
  absl::Status OnAnnounced(const v1::NcclFrame& announced);
  // With the mutex: whether NCCL will bring the frame, and why the node is told if not.
  v1::NcclAnswer AcceptLocked(const FrameHeader& header, const NcclOffer& offer);
  void OnArrived(uint32_t sequence, const BlockPtr& block, absl::Status status);
  absl::Status Verify(const FrameHeader& header, const FrameStaging::Block& block);
  // Hands on all whose turn has come, unless another thread does.
  void HandOn();
  void HandOn(const Item& item);
  Item* FindLocked(uint32_t sequence);
  Item& AddLocked(Item item);
  absl::Status CheckWaitingLocked() const;
  void CloseIfTooMuchWaitsLocked();

  NcclService& nccl_service_;  // while transfers are under way, as all of them end before it does
  const NcclEndpoint nccl_;
  NcclMetrics& metrics_;
  const std::string node_;
  const size_t most_bytes_;

  mutable std::mutex mutex_;
  std::shared_ptr<StagedFrameEvents> events_;  // shared: until the end has been handed on
  std::shared_ptr<Channel> channel_;           // shared: with the transport, as it gives it
  std::deque<Item> items_;
  size_t waiting_bytes_ = 0;  // in host memory, of `items_`
  bool handing_on_ = false;
  std::set<uint32_t> announced_;  // sequences of frames
  size_t num_accepted_ = 0;       // under way
  uint64_t communicator_ = 0;
  size_t num_by_nccl_ = 0, num_over_channel_ = 0;
  bool ended_ = false;
  std::optional<absl::Status> closing_;
};

}  // namespace kvship
