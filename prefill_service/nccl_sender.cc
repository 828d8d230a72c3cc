#include "prefill_service/nccl_sender.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "rpc/sealed_message.h"

namespace kvship {
namespace {

using v1::NcclAnswer;

// Shorter bursts measure buffers, not the network.
constexpr size_t kLeastMeasuredBytes = 4 << 20;
// For a client whose stream has broken, to connect all the same: 0.1 to 0.9 s were measured.
constexpr absl::Duration kConnectGrace = absl::Seconds(1);

}  // namespace

std::shared_ptr<NcclSender> NcclSender::Create(NcclService& nccl, const std::string& caller,
                                               uint64_t gpu, std::shared_ptr<FrameChannel> channel,
                                               std::function<void()> on_unsent) {
  // A number that somebody else has drawn is of no use under another name.
  std::string peer = absl::StrCat(caller, caller.empty() ? "" : "/", absl::Hex(gpu));
  return std::shared_ptr<NcclSender>(
      new NcclSender(nccl, std::move(peer), std::move(channel), std::move(on_unsent)));
}

NcclSender::NcclSender(NcclService& nccl, std::string peer, std::shared_ptr<FrameChannel> channel,
                       std::function<void()> on_unsent)
    : nccl_service_(nccl),
      nccl_(nccl.endpoint()),
      metrics_(nccl.metrics()),
      peer_(std::move(peer)),
      channel_(std::move(channel)),
      on_unsent_(std::move(on_unsent)) {}

void NcclSender::Meet(const v1::NcclClient& client) {
  const uint64_t known = nccl_.executor->CommunicatorOf(peer_);
  if (known == 0 || known != client.communicator()) {
    if (client.busy()) return;
    const absl::StatusOr<NcclUniqueId> id = nccl_.executor->Invite(peer_);
    if (id.ok()) {
      communicator_ = NcclCommunicatorNumber(*id);
      invited_ = true;
      v1::NcclNotice notice;
      notice.set_invitation(id->data(), id->size());
      return Tell(notice);
    }
    // The client may know by now what it did not when it wrote; else it refuses the first frame.
  }
  communicator_ = known;
}

void NcclSender::Begin() {
  const std::lock_guard lock(mutex_);
  begun_ = true;
}

bool NcclSender::MayOffer() const {
  const std::lock_guard lock(mutex_);
  return begun_ && !closing_.has_value() && !closed_;
}

bool NcclSender::Offer(Frame* frame) {
  if (!MayOffer()) return false;
  const bool is_there = frame->block != nullptr;
  if (!is_there) {
    std::vector<FrameStaging::BlockPtr> taken = nccl_.staging->Take(1);
    if (taken.empty()) {
      metrics_.CountNoMemory();
      return false;
    }
    frame->block = std::move(taken.front());
  }
  frame->deadline = MonotonicNow() + nccl_.transfer_timeout;
  const absl::StatusOr<NcclOffer> offer =
      nccl_.executor->Offer(peer_, communicator_, frame->deadline);
  if (!offer.ok()) return false;
  frame->offer = *offer;
  const absl::Status uploaded =
      is_there ? absl::OkStatus() : frame->block->Upload(frame->payload.bytes);
  if (uploaded.ok()) return true;
  nccl_.executor->Break(peer_, communicator_, uploaded);
  return false;
}

void NcclSender::SendFrame(const FrameHeader& header, SharedBytes payload) {
  Send({.header = header, .payload = std::move(payload)});
}

std::vector<FrameStaging::BlockPtr> NcclSender::TakeFrames(size_t num_frames) {
  if (!MayOffer() || !nccl_.executor->IsReady(peer_, communicator_)) return {};
  return nccl_.staging->Take(num_frames);
}

void NcclSender::SendStagedFrame(const FrameHeader& header, FrameStaging::BlockPtr payload) {
  Send({.header = header, .payload = {}, .block = std::move(payload)});
}

void NcclSender::Send(Frame frame) {
  if (!Offer(&frame)) return SendOverChannel(frame);
  const FrameHeader& header = frame.header;
  v1::NcclNotice notice;
  v1::NcclFrame& announced = *notice.mutable_frame();
  announced.mutable_frame()->set_sequence(header.sequence);
  announced.mutable_frame()->set_layer(header.layer);
  announced.mutable_frame()->set_offset(header.offset);
  announced.mutable_frame()->set_checksum_kind(v1::CHECKSUM_CRC32C);
  announced.mutable_frame()->set_checksum(header.crc32c);
  announced.set_payload_bytes(header.num_bytes);
  announced.set_communicator(frame.offer.communicator);
  announced.set_place(frame.offer.sequence);
  const std::lock_guard lock(mutex_);
  unconfirmed_bytes_ += header.num_bytes;
  frames_.emplace(header.sequence, std::move(frame));
  Tell(notice);
}

void NcclSender::SendOverChannel(const Frame& frame) {
  absl::StatusOr<SharedBytes> payload = frame.OnHost();
  if (!payload.ok()) return channel_->Close(payload.status());
  const std::lock_guard lock(mutex_);
  SendOverChannelLocked(frame.header, *std::move(payload));
}

// With the mutex: OnSent must not see the frame counted, and not yet among what is unsent.
void NcclSender::SendOverChannelLocked(const FrameHeader& header, SharedBytes payload) {
  if (busy_bytes_ == 0) busy_since_ = MonotonicNow();
  busy_bytes_ += header.num_bytes;
  channel_->SendFrame(header, std::move(payload));
}

absl::StatusOr<SharedBytes> NcclSender::Frame::OnHost() const {
  if (!payload.bytes.empty()) return payload;
  ASSIGN_OR_RETURN(const std::span<const std::byte> bytes, block->Download(header.num_bytes));
  return SharedBytes{bytes, block};
}

void NcclSender::OnSent() {
  const std::lock_guard lock(mutex_);
  if (channel_->unsent_bytes() > 0) return;
  if (busy_bytes_ >= kLeastMeasuredBytes) {
    const absl::Duration took = MonotonicNow() - busy_since_;
    nccl_.executor->ReportOther(peer_,
                                static_cast<double>(busy_bytes_) / absl::ToDoubleSeconds(took));
  }
  busy_bytes_ = 0;
}

absl::Status NcclSender::OnAnswer(const v1::NcclAnswer& answer) {
  if (answer.broken() != 0) Break(answer.broken(), "the client has given it up");
  const uint32_t sequence = answer.sequence();
  bool lost = false;
  {
    const std::lock_guard lock(mutex_);
    const auto found = frames_.find(sequence);
    // What has failed here already has gone over the channel.
    if (found == frames_.end()) return absl::OkStatus();
    Frame& frame = found->second;
    switch (answer.outcome()) {
      case NcclAnswer::OUTCOME_ACCEPTED:
        if (!frame.accepted) SendByNccl(frame);
        return absl::OkStatus();
      case NcclAnswer::OUTCOME_REFUSED:
        if (!frame.accepted) nccl_.executor->Skip(peer_, frame.offer).IgnoreError();
        lost = true;
        break;
      case NcclAnswer::OUTCOME_LOST: lost = true; break;
      case NcclAnswer::OUTCOME_RECEIVED:
        if (!frame.accepted) {
          return absl::InvalidArgumentError(absl::StrCat("nccl: RECEIVED came for frame ", sequence,
                                                         "; wanted ACCEPTED before it"));
        }
        break;
      default: return absl::OkStatus();
    }
  }
  Resolve(sequence, lost);
  return absl::OkStatus();
}

// With the mutex: no answer of the executor's comes before this returns.
void NcclSender::SendByNccl(Frame& frame) {
  frame.accepted = true;
  frame.deadline = MonotonicNow() + nccl_.transfer_timeout;
  const uint32_t sequence = frame.header.sequence;
  const absl::Status sent = nccl_.executor->Send(
      peer_, frame.offer,
      {.bytes = {frame.block->device(), frame.header.num_bytes},
       .owner = frame.block,
       .deadline = frame.deadline,
       .on_done = [self = shared_from_this(), sequence](const absl::Status& status) {
         self->OnLeft(sequence, status);
       }});
  if (sent.ok()) return;
  // The client waits for bytes that will not come; it says LOST when it has given up.
  v1::NcclNotice notice;
  notice.set_broken(frame.offer.communicator);
  Tell(notice);
}

void NcclSender::OnLeft(uint32_t sequence, const absl::Status& status) {
  if (status.ok()) return;
  // Aside, where it may wait for the frame's copy to the host.
  nccl_service_.RunAside(
      [self = shared_from_this(), sequence] { self->Resolve(sequence, /*over_channel=*/true); });
}

void NcclSender::Resolve(uint32_t sequence, bool over_channel) {
  Frame frame;
  {
    const std::lock_guard lock(mutex_);
    const auto found = frames_.find(sequence);
    if (found == frames_.end()) return;
    frame = found->second;
  }
  absl::StatusOr<SharedBytes> payload;
  if (over_channel) payload = frame.OnHost();
  std::optional<absl::Status> close;
  {
    const std::lock_guard lock(mutex_);
    if (frames_.erase(sequence) == 0) return;
    const bool wanted = over_channel && (!closing_.has_value() || closing_->ok());
    if (frames_.empty()) close = closing_;
    if (wanted && !payload.ok()) {
      close = payload.status();  // and its bytes stay unsent
    } else {
      unconfirmed_bytes_ -= frame.header.num_bytes;
    }
    // Before others see that the frame is none of NCCL's any more, and close.
    if (wanted && payload.ok()) SendOverChannelLocked(frame.header, *std::move(payload));
  }
  if (close.has_value()) channel_->Close(*close);
  on_unsent_();
}

size_t NcclSender::unsent_bytes() const {
  const std::lock_guard lock(mutex_);
  return channel_->unsent_bytes() + unconfirmed_bytes_;
}

void NcclSender::Close(absl::Status status) {
  {
    const std::lock_guard lock(mutex_);
    const bool waits = status.ok() ? !frames_.empty() : MonotonicNow() < LastDeadlineLocked();
    if (waits && !closed_) {
      if (closing_.has_value()) return;
      closing_ = std::move(status);
      if (!closing_->ok()) CloseWhenLateLocked();
      return;
    }
  }
  channel_->Close(std::move(status));
}

absl::Time NcclSender::LastDeadlineLocked() const {
  absl::Time last = absl::InfinitePast();
  for (const auto& [sequence, frame] : frames_) last = std::max(last, frame.deadline);
  return last;
}

// A client that never answers is not waited for.
void NcclSender::CloseWhenLateLocked() {
  nccl_service_.RunAt(LastDeadlineLocked(), [weak = weak_from_this()] {
    const std::shared_ptr<NcclSender> self = weak.lock();
    if (self == nullptr) return;
    {
      const std::lock_guard lock(self->mutex_);
      if (self->frames_.empty()) return;  // the last of them has closed it, or it has ended
      // Accepted meanwhile, one has got more time.
      if (MonotonicNow() < self->LastDeadlineLocked()) return self->CloseWhenLateLocked();
    }
    self->channel_->Close(*self->closing_);
  });
}

void NcclSender::OnClosed(const absl::Status& status) {
  bool is_open = false;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    for (const auto& [sequence, frame] : frames_) is_open |= !frame.accepted;
    frames_.clear();
  }
  if (is_open) Break(communicator_, "the stream of an offer broke");
  // Nobody knows whether the client has read the invitation. If so it connects, for other requests.
  if (invited_ && !status.ok()) {
    nccl_.executor->ConnectBy(peer_, communicator_, MonotonicNow() + kConnectGrace);
  }
}

void NcclSender::Tell(const v1::NcclNotice& notice) const {
  v1::PrefillResponse response;
  *response.mutable_nccl() = notice;
  channel_->SendMessage(Sealed(response));
}

void NcclSender::Break(uint64_t communicator, const char* why) {
  nccl_.executor->Break(peer_, communicator, absl::UnavailableError(why));
}

}  // namespace kvship
