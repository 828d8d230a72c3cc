#include "decode_service/nccl_receiver.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "rpc/sealed_message.h"
#include "rpc/wire_version.h"

namespace kvship {
namespace {

using v1::NcclAnswer;

// What an item takes beside its bytes, and the announcement of a frame.
constexpr size_t kItemBytes = 256;

NcclAnswer AnswerTo(uint32_t sequence, NcclAnswer::Outcome outcome) {
  NcclAnswer answer;
  answer.set_sequence(sequence);
  answer.set_outcome(outcome);
  return answer;
}

std::string MessageOf(const NcclAnswer& answer) {
  v1::PrefillRequest request;
  *request.mutable_nccl() = answer;
  return Sealed(request);
}

}  // namespace

NcclReceiver::NcclReceiver(NcclService& nccl, std::string node, size_t most_bytes)
    : nccl_service_(nccl),
      nccl_(nccl.endpoint()),
      metrics_(nccl.metrics()),
      node_(std::move(node)),
      most_bytes_(most_bytes) {}

std::shared_ptr<Channel> NcclReceiver::Open(const Connect& connect,
                                            std::shared_ptr<StagedFrameEvents> events) {
  {
    const std::lock_guard lock(mutex_);
    events_ = std::move(events);
  }
  std::shared_ptr<Channel> channel = connect(shared_from_this());
  const std::lock_guard lock(mutex_);
  channel_ = std::move(channel);
  return shared_from_this();
}

void NcclReceiver::AddTo(v1::PrefillBegin* begin) const {
  begin->add_transports(kNcclTransport);
  begin->mutable_nccl()->set_gpu(nccl_.gpu);
  begin->mutable_nccl()->set_communicator(nccl_.executor->CommunicatorOf(node_));
  begin->mutable_nccl()->set_busy(!nccl_.executor->MayConnect(node_).ok());
}

std::string NcclReceiver::transport() const {
  const std::lock_guard lock(mutex_);
  if (num_by_nccl_ == 0) return kGrpcTransport;
  if (num_over_channel_ == 0) return kNcclTransport;
  return absl::StrCat(kNcclTransport, ",", kGrpcTransport);
}

std::shared_ptr<Channel> NcclReceiver::channel() const {
  const std::lock_guard lock(mutex_);
  return channel_;
}

void NcclReceiver::OnMessage(std::span<const std::byte> message) {
  v1::PrefillResponse response;
  if (SealOf(message) == Seal::kIntact &&
      response.ParseFromArray(message.data(), static_cast<int>(message.size())) &&
      response.has_nccl()) {
    return OnNotice(response.nccl());
  }
  {
    const std::lock_guard lock(mutex_);
    AddLocked({.bytes = {message.begin(), message.end()}});
    CloseIfTooMuchWaitsLocked();
  }
  HandOn();
}

NcclReceiver::Item& NcclReceiver::AddLocked(Item item) {
  waiting_bytes_ += kItemBytes + item.bytes.size();
  return items_.emplace_back(std::move(item));
}

// Beside frames there comes less than one of them holds.
absl::Status NcclReceiver::CheckWaitingLocked() const {
  if (waiting_bytes_ <= most_bytes_ + kMostFrameBytes) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(waiting_bytes_,
                                          " bytes wait for a frame before them; wanted at most ",
                                          most_bytes_, " in the whole cache"));
}

void NcclReceiver::CloseIfTooMuchWaitsLocked() {
  const absl::Status status = CheckWaitingLocked();
  if (!status.ok() && channel_ != nullptr) channel_->Close(status);
}

void NcclReceiver::OnNotice(const v1::NcclNotice& notice) {
  // Nonsense before Begin, when there is nobody to answer yet.
  if (channel() == nullptr) return;
  switch (notice.notice_case()) {
    case v1::NcclNotice::kInvitation: return OnInvitation(notice.invitation());
    case v1::NcclNotice::kBroken:
      return nccl_.executor->Break(node_, notice.broken(),
                                   absl::UnavailableError("the prefill node has given it up"));
    case v1::NcclNotice::kFrame:
      if (const absl::Status status = OnAnnounced(notice.frame()); !status.ok()) {
        channel()->Close(status);
      }
      return;
    default: return;
  }
}

void NcclReceiver::OnInvitation(const std::string& invitation) {
  NcclUniqueId id;
  if (invitation.size() != id.size()) {
    return channel()->Close(absl::DataLossError(
        absl::StrCat("nccl.invitation has ", invitation.size(), " bytes; wanted ", id.size())));
  }
  std::memcpy(id.data(), invitation.data(), id.size());
  if (nccl_.executor->Accept(node_, id).ok()) return;
  NcclAnswer answer;
  answer.set_broken(NcclCommunicatorNumber(id));
  channel()->SendMessage(MessageOf(answer));
}

absl::Status NcclReceiver::OnAnnounced(const v1::NcclFrame& announced) {
  const v1::KvFrame& frame = announced.frame();
  const FrameHeader header = {.sequence = frame.sequence(),
                              .layer = frame.layer(),
                              .offset = frame.offset(),
                              .num_bytes = announced.payload_bytes(),
                              .crc32c = frame.checksum()};
  if (frame.checksum_kind() != v1::CHECKSUM_CRC32C || header.num_bytes == 0 ||
      header.num_bytes > kMostFrameBytes) {
    return absl::DataLossError(absl::StrCat("nccl.frame ", header.sequence, " has ",
                                            header.num_bytes, " bytes; wanted 1 to ",
                                            kMostFrameBytes, " with a CRC32C"));
  }
  const std::lock_guard lock(mutex_);
  if (announced_.contains(header.sequence)) {
    return absl::DataLossError(
        absl::StrCat("nccl.frame ", header.sequence, " came a second time; wanted it once"));
  }
  announced_.insert(header.sequence);
  AddLocked({.kind = Item::Kind::kFrame, .is_there = false, .header = header});
  RETURN_IF_ERROR(CheckWaitingLocked());
  // Before the lock goes: what has arrived is told after it.
  channel_->SendMessage(
      MessageOf(AcceptLocked(header, {announced.communicator(), announced.place()})));
  return absl::OkStatus();
}

NcclAnswer NcclReceiver::AcceptLocked(const FrameHeader& header, const NcclOffer& offer) {
  NcclAnswer answer = AnswerTo(header.sequence, NcclAnswer::OUTCOME_REFUSED);
  const auto blocks = closing_.has_value() ? std::vector<BlockPtr>() : nccl_.staging->Take(1);
  absl::Status status;
  if (blocks.empty()) {
    if (!closing_.has_value()) metrics_.CountNoMemory();
    status = nccl_.executor->Skip(node_, offer);
  } else {
    const BlockPtr& block = blocks.front();
    status =
        nccl_.executor->Receive(node_, offer,
                                {.bytes = {block->device(), header.num_bytes},
                                 .owner = block,
                                 .deadline = MonotonicNow() + nccl_.transfer_timeout,
                                 .on_done = [self = shared_from_this(), sequence = header.sequence,
                                             block](const absl::Status& done) {
                                   self->nccl_service_.RunAside([self, sequence, block, done] {
                                     self->OnArrived(sequence, block, done);
                                   });
                                 }});
    if (status.ok()) {
      communicator_ = offer.communicator;
      ++num_accepted_;
      answer.set_outcome(NcclAnswer::OUTCOME_ACCEPTED);
    }
  }
  if (absl::IsNotFound(status)) answer.set_broken(offer.communicator);
  return answer;
}

// Aside, where it may wait.
void NcclReceiver::OnArrived(uint32_t sequence, const BlockPtr& block, absl::Status status) {
  std::optional<FrameHeader> header;
  {
    const std::lock_guard lock(mutex_);
    if (const Item* item = FindLocked(sequence)) header = item->header;
  }
  // Else it has come over the channel, or all is over.
  if (header.has_value() && status.ok()) status = Verify(*header, *block);
  std::optional<absl::Status> close;
  {
    const std::lock_guard lock(mutex_);
    if (Item* const item = FindLocked(sequence); item != nullptr && status.ok()) {
      item->is_there = true;
      item->block = block;
    }
    // Before the lock goes: who is handed the frame, or what is behind it, may close the channel.
    channel_->SendMessage(MessageOf(
        AnswerTo(sequence, status.ok() ? NcclAnswer::OUTCOME_RECEIVED : NcclAnswer::OUTCOME_LOST)));
    if (--num_accepted_ == 0) close = closing_;
  }
  HandOn();
  if (close.has_value()) channel()->Close(*close);
}

absl::Status NcclReceiver::Verify(const FrameHeader& header, const FrameStaging::Block& block) {
  ASSIGN_OR_RETURN(const uint32_t crc32c, block.Checksum(header.num_bytes));
  if (crc32c == header.crc32c) return absl::OkStatus();
  metrics_.CountDamaged();
  return absl::DataLossError("NCCL brought other bytes than were announced");
}

void NcclReceiver::OnFrame(const FrameHeader& header, BytePieces payload) {
  std::unique_lock lock(mutex_);
  Item* item = FindLocked(header.sequence);
  if (item == nullptr) {
    if (announced_.contains(header.sequence)) return;  // NCCL has brought it after all
    if (items_.empty() && !handing_on_) {
      handing_on_ = true;
      ++num_over_channel_;
      lock.unlock();
      events_->OnFrame(header, payload);
      lock.lock();
      handing_on_ = false;
      lock.unlock();
      return HandOn();
    }
    item = &AddLocked({.kind = Item::Kind::kFrame});
  }
  item->is_there = true;
  item->header = header;
  for (const std::span<const std::byte> piece : payload) {
    item->bytes.insert(item->bytes.end(), piece.begin(), piece.end());
  }
  waiting_bytes_ += item->bytes.size();
  CloseIfTooMuchWaitsLocked();
  lock.unlock();
  HandOn();
}

// An announced frame whose bytes are not there.
NcclReceiver::Item* NcclReceiver::FindLocked(uint32_t sequence) {
  const auto found = std::find_if(items_.begin(), items_.end(), [sequence](const Item& item) {
    return item.kind == Item::Kind::kFrame && !item.is_there && item.header.sequence == sequence;
  });
  return found == items_.end() ? nullptr : &*found;
}

void NcclReceiver::HandOn() {
  std::unique_lock lock(mutex_);
  if (handing_on_) return;
  handing_on_ = true;
  while (!items_.empty() && items_.front().is_there) {
    const Item item = std::move(items_.front());
    items_.pop_front();
    waiting_bytes_ -= kItemBytes + item.bytes.size();
    // Nobody wants what comes after an error but the end.
    if (closing_.has_value() && !closing_->ok() && item.kind != Item::Kind::kEnd) continue;
    if (item.kind == Item::Kind::kFrame) {
      ++(item.block != nullptr ? num_by_nccl_ : num_over_channel_);
    }
    lock.unlock();
    HandOn(item);
    lock.lock();
  }
  handing_on_ = false;
}

void NcclReceiver::HandOn(const Item& item) {
  switch (item.kind) {
    case Item::Kind::kMessage: return events_->OnMessage(item.bytes);
    case Item::Kind::kFrame: {
      if (item.block != nullptr) return events_->OnStagedFrame(item.header, *item.block);
      const std::span<const std::byte> payload = item.bytes;
      return events_->OnFrame(item.header, {&payload, 1});
    }
    case Item::Kind::kEnd: {
      events_->OnClosed(item.status);
      const std::lock_guard lock(mutex_);
      events_ = nullptr;
    }
  }
}

void NcclReceiver::OnClosed(const absl::Status& status) {
  bool lost = false;
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    lost = num_accepted_ > 0;
    // What waits for bytes waits for ever.
    const auto first =
        std::find_if(items_.begin(), items_.end(), [](const Item& item) { return !item.is_there; });
    items_.erase(first, items_.end());
    // Who has closed the stream hears of it, though the node may have sent everything meanwhile.
    const bool given_up = closing_.has_value() && !closing_->ok();
    AddLocked({.kind = Item::Kind::kEnd, .status = given_up ? *closing_ : status});
  }
  if (lost) {
    nccl_.executor->Break(node_, communicator_,
                          absl::UnavailableError("the stream of an accepted offer broke"));
  }
  HandOn();
}

void NcclReceiver::Close(absl::Status status) {
  std::shared_ptr<Channel> open;
  {
    const std::lock_guard lock(mutex_);
    if (num_accepted_ > 0 && !ended_) {
      if (!closing_.has_value()) closing_ = std::move(status);
      return;
    }
    open = channel_;
  }
  open->Close(std::move(status));
}

}  // namespace kvship
