#include "decode_service/prefill_attempt.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/out_of_memory.h"
#include "base/status_macros.h"
#include "decode_service/kv_report.h"
#include "rpc/cache_messages.h"
#include "rpc/compression.h"
#include "rpc/errors.h"
#include "rpc/sampling.h"
#include "rpc/sealed_message.h"
#include "rpc/wire_version.h"

namespace kvship {
namespace {

double Milliseconds(absl::Duration duration) { return absl::ToDoubleMilliseconds(duration); }

// What a node tells of its work.
absl::Status CheckTold(const v1::PrefillManifest& manifest, size_t prompt_tokens) {
  if (manifest.reused_tokens() > prompt_tokens) {
    return absl::DataLossError(absl::StrCat("manifest's reused_tokens ", manifest.reused_tokens(),
                                            " came; wanted at most ", prompt_tokens));
  }
  for (const auto& [name, time_ms] :
       {std::pair("queue_ms", manifest.queue_ms()), std::pair("prefill_ms", manifest.prefill_ms()),
        std::pair("compress_ms", manifest.compress_ms()),
        std::pair("computed_after_ms", manifest.computed_after_ms())}) {
    if (!std::isfinite(time_ms) || time_ms < 0) {
      return absl::DataLossError(
          absl::StrCat("manifest's ", name, " ", time_ms, " came; wanted 0 or more"));
    }
  }
  return absl::OkStatus();
}

// Whether it is this side that failed: what is wrong with what a node sends is DataLoss or
// FailedPrecondition.
bool IsOwnFailure(const absl::Status& error) {
  return !absl::IsDataLoss(error) && !absl::IsFailedPrecondition(error);
}

}  // namespace

PrefillAttempt::PrefillAttempt(const GenerationRequest& request, const Sha256Digest& model_identity,
                               Memory memory, OnProgress on_progress, OnEnd on_end)
    : request_(request),
      model_identity_(model_identity),
      queue_(memory.queue),
      ticket_(memory.ticket),
      on_progress_(std::move(on_progress)),
      on_end_(std::move(on_end)),
      cache_(std::move(memory.cache)) {}

bool PrefillAttempt::found_no_room() const {
  std::lock_guard lock(mutex_);
  return found_no_room_;
}

bool PrefillAttempt::failed_here() const {
  std::lock_guard lock(mutex_);
  return failed_here_;
}

void PrefillAttempt::Open(const Connect& connect, std::shared_ptr<NcclReceiver> nccl) {
  Progress(v1::GenerateProgress::PHASE_QUEUED, 0);
  nccl_ = std::move(nccl);
  std::string begin;
  const absl::Status memory = UnlessOutOfMemory([&] {
    begin = Sealed(BeginMessage());  // of a long prompt some megabytes
    return absl::OkStatus();
  });
  if (!memory.ok()) return Fail(memory);
  std::shared_ptr<Channel> channel =
      nccl_ == nullptr ? connect(shared_from_this()) : nccl_->Open(connect, shared_from_this());
  std::optional<absl::Status> cancelled;
  {
    std::lock_guard lock(mutex_);
    channel_ = channel;
    cancelled = cancelled_;
  }
  // What came meanwhile had no channel to close.
  if (cancelled) return channel->Close(*cancelled);
  channel->SendMessage(std::move(begin));
}

void PrefillAttempt::Cancel(const absl::Status& why) {
  std::shared_ptr<Channel> channel;
  {
    std::lock_guard lock(mutex_);
    if (!cancelled_) cancelled_ = why;
    channel = channel_;
  }
  // The rest happens in OnClosed.
  if (channel != nullptr) channel->Close(why);
}

v1::PrefillRequest PrefillAttempt::BeginMessage() const {
  v1::PrefillRequest message;
  v1::PrefillBegin& begin = *message.mutable_begin();
  *begin.mutable_wire_version() = WireVersionProto();
  begin.set_model_identity(model_identity_.data(), model_identity_.size());
  begin.mutable_tokens()->Add(request_.tokens.begin(), request_.tokens.end());
  *begin.mutable_compression() = CompressionToProto(request_.compression);
  *begin.mutable_plan() = PlanToProto(request_.plan);
  *begin.mutable_sampling() = SamplingToProto(request_.output.sampling);
  begin.set_logprobs(static_cast<uint32_t>(request_.output.num_logprobs));
  if (!request_.output.forced_tokens.empty()) {
    begin.set_forced_token(static_cast<uint32_t>(request_.output.forced_tokens[0]));
  }
  begin.mutable_allowed_tokens()->Add(request_.first_token_mask.begin(),
                                      request_.first_token_mask.end());
  if (nccl_ != nullptr) nccl_->AddTo(&begin);
  begin.add_transports(kGrpcTransport);
  begin.set_request_id(request_.request_id);
  begin.set_cache_salt(request_.cache_salt);
  return message;
}

uint32_t PrefillAttempt::OldestWireMinor() const {
  // An older node would ignore what it does not know.
  if (!request_.cache_salt.empty()) return kCacheSaltWireMinor;
  if (!request_.first_token_mask.empty()) return kAllowedTokensWireMinor;
  return kOldestWireMinor;
}

void PrefillAttempt::Progress(v1::GenerateProgress::Phase phase, float fraction) {
  v1::GenerateProgress progress;
  progress.set_phase(phase);
  progress.set_fraction(fraction);
  progress.set_prompt_tokens(static_cast<uint32_t>(request_.tokens.size()));
  on_progress_(progress);
}

void PrefillAttempt::OnMessage(std::span<const std::byte> bytes) {
  const absl::Status status = UnlessOutOfMemory([&] { return TakeMessage(bytes); });
  if (!status.ok()) Fail(status);
}

absl::Status PrefillAttempt::TakeMessage(std::span<const std::byte> bytes) {
  v1::PrefillResponse message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError("the prefill node sent a message that cannot be read");
  }
  if (message.has_ready()) node_version_ = message.ready().wire_version();
  RETURN_IF_ERROR(CheckSeal(SealOf(bytes), node_version_));
  switch (message.message_case()) {
    case v1::PrefillResponse::kQueued: break;  // the client knows since Open
    case v1::PrefillResponse::kReady: return OnReady(message.ready());
    case v1::PrefillResponse::kProgress: return OnPrefillProgress(message.progress().fraction());
    case v1::PrefillResponse::kLayer: {
      std::lock_guard lock(mutex_);
      last_arrival_ = MonotonicNow();
      return receiver_ ? receiver_->BeginLayer(LayerHeaderFromProto(message.layer()))
                       : absl::DataLossError("the prefill node sent a layer before Go");
    }
    case v1::PrefillResponse::kManifest: return OnManifest(message.manifest());
    default:  // a newer minor version may tell more than this one understands
      break;
  }
  return absl::OkStatus();
}

absl::Status PrefillAttempt::OnPrefillProgress(float fraction) {
  if (std::isnan(fraction)) {
    return absl::DataLossError("progress.fraction is not a number; wanted 0 to 1");
  }
  fraction = std::clamp(fraction, 0.0f, 1.0f);
  if (fraction == 1) {
    std::lock_guard lock(mutex_);
    computed_time_ = MonotonicNow();
  }
  Progress(v1::GenerateProgress::PHASE_PREFILL, fraction);
  return absl::OkStatus();
}

void PrefillAttempt::OnFrame(const FrameHeader& header, BytePieces payload) {
  OnAnyFrame([&](CacheReceiver& receiver) { return receiver.AddFrame(header, payload); });
}

void PrefillAttempt::OnStagedFrame(const FrameHeader& header, const FrameStaging::Block& payload) {
  OnAnyFrame(
      [&](CacheReceiver& receiver) { return receiver.AddStagedFrame(header, payload.device()); });
}

void PrefillAttempt::OnAnyFrame(const AddFrame& add) {
  absl::Status status;
  {
    std::lock_guard lock(mutex_);
    status = receiver_ ? UnlessOutOfMemory([&] { return add(*receiver_); })
                       : absl::DataLossError("the prefill node sent a frame before Go");
    const absl::Time now = MonotonicNow();
    receive_time_ += now - std::exchange(last_arrival_, now);
  }
  if (!status.ok()) Fail(status);
}

absl::Status PrefillAttempt::OnReady(const v1::PrefillReady& ready) {
  RETURN_IF_ERROR(CheckWireVersion(ready.wire_version(), OldestWireMinor()));
  const auto& transports = ready.transports();
  const auto offers = [&transports](const char* transport) {
    return std::find(transports.begin(), transports.end(), transport) != transports.end();
  };
  if (!offers(kGrpcTransport)) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          "the prefill node does not offer the transport '", kGrpcTransport, "'")),
                      kWireVersionMismatch);
  }
  RETURN_IF_ERROR(CheckPlan(ready.plan(), request_.plan));
  std::shared_ptr<Channel> channel;
  {
    std::lock_guard lock(mutex_);
    if (receiver_) return absl::DataLossError("Ready came a second time");
    if (on_end_ == nullptr) return absl::OkStatus();
    if (channel_ == nullptr) return absl::DataLossError("Ready came before Begin was sent");
    RETURN_IF_ERROR(TakeMemory());
    receiver_.emplace(*cache_);
    channel = channel_;
    go_time_ = MonotonicNow();
  }
  v1::PrefillRequest go;
  const bool by_nccl = nccl_ != nullptr && offers(kNcclTransport);
  go.mutable_go()->set_transport(by_nccl ? kNcclTransport : kGrpcTransport);
  channel->SendMessage(Sealed(go));
  return absl::OkStatus();
}

// A node must not wait for our memory, nor hold up others that it could serve: without room the
// attempt ends, and the request stands in line before the next one.
absl::Status PrefillAttempt::TakeMemory() {
  if (cache_ != nullptr) return absl::OkStatus();
  absl::StatusOr<ReservationQueue::Cache> cache = queue_.TryReserve(ticket_);
  found_no_room_ = absl::IsResourceExhausted(cache.status());
  RETURN_IF_ERROR(cache.status());
  cache_ = *std::move(cache);
  return absl::OkStatus();
}

// When the node had computed all, by our clock; what held the computation up because of the network
// counts as after it. That word itself comes behind all frames that the network has not taken yet:
// late by just what is to be measured.
absl::Time PrefillAttempt::ComputedTime(const v1::PrefillManifest& manifest) const {
  if (!manifest.has_computed_after_ms()) return computed_time_;
  const absl::Time told = go_time_ + absl::Milliseconds(manifest.computed_after_ms());
  return std::max(go_time_, std::min(told, computed_time_));
}

absl::Status PrefillAttempt::OnManifest(const v1::PrefillManifest& message) {
  ASSIGN_OR_RETURN(const KvManifest manifest, ManifestFromProto(message));
  RETURN_IF_ERROR(CheckTold(message, request_.tokens.size()));
  Result result;
  result.first_token = OutputTokenFromProto(message.first_token());
  std::shared_ptr<Channel> channel;
  {
    std::lock_guard lock(mutex_);
    if (!receiver_) return absl::DataLossError("the prefill node sent a manifest before Go");
    RETURN_IF_ERROR(receiver_->Finish(manifest));
    result.kv = MakeKvReport(*cache_, receiver_->layers());
    result.kv.set_shipped_bytes(receiver_->num_bytes());
    result.kv.set_transport(nccl_ == nullptr ? kGrpcTransport : nccl_->transport());
    result.reused_tokens = message.reused_tokens();
    result.timing.set_queue_ms(message.queue_ms());
    result.timing.set_prefill_ms(message.prefill_ms());
    result.timing.set_compress_ms(message.compress_ms());
    if (computed_time_ != absl::Time()) {
      result.timing.set_transfer_ms(Milliseconds(MonotonicNow() - ComputedTime(message)));
    }
    result.receive_time = receive_time_;
    result.cache = std::move(cache_);
    channel = channel_;
  }
  if (request_.plan.bounded) queue_.GiveBackUnused(ticket_, *result.cache);
  End(std::move(result));
  channel->Close(absl::OkStatus());
  return absl::OkStatus();
}

void PrefillAttempt::OnClosed(const absl::Status& status) {
  bool let_go = status.ok();
  {
    // A server whose time to shut down is over cancels what is left. The request's own deadline is
    // not gRPC's: one that has passed is a proxy's.
    std::lock_guard lock(mutex_);
    let_go |= (absl::IsCancelled(status) || absl::IsDeadlineExceeded(status)) && !cancelled_;
  }
  End(let_go ? absl::UnavailableError("the prefill node ended the stream before the manifest")
             : status);
}

void PrefillAttempt::Fail(const absl::Status& error) {
  {
    std::lock_guard lock(mutex_);
    if (on_end_ != nullptr) failed_here_ = IsOwnFailure(error);
  }
  Cancel(error);
  End(error);
}

void PrefillAttempt::End(absl::StatusOr<Result> result) {
  OnEnd on_end;
  ReservationQueue::Cache cache;
  {
    std::lock_guard lock(mutex_);
    on_end = std::exchange(on_end_, nullptr);
    receiver_.reset();
    cache = std::move(cache_);
  }
  // Memory first: who sees the end of a request finds it free.
  cache.reset();
  if (on_end) on_end(std::move(result));
}

}  // namespace kvship
