#include "tests/e2e/stream.h"

#include <grpcpp/create_channel.h>

#include <algorithm>

#include "base/clock.h"
#include "transport/grpc_status.h"

namespace kvship {

std::shared_ptr<grpc::Channel> Stream::Connect(const Server& decode) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1024);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(decode.address(), grpc::InsecureChannelCredentials(), arguments);
}

Stream::Stream(const Server& decode, const v1::GenerateRequest& request, const Options& options)
    : stub_(v1::GenerationService::NewStub(options.channel ? options.channel : Connect(decode))),
      sent_(MonotonicNow()) {
  // A connection that fails is tried again, for the reason of Connects() in checked_load.h.
  context_.set_wait_for_ready(true);
  if (options.timeout != absl::InfiniteDuration()) {
    context_.set_deadline(absl::ToChronoTime(WallNow() + options.timeout));
  }
  if (!options.api_token.empty()) {
    context_.AddMetadata("authorization", absl::StrCat("Bearer ", options.api_token));
  }
  if (options.reads) {
    thread_ = std::thread([this, request] { Read(request); });
  } else {
    reader_ = stub_->Generate(&context_, request);
  }
}

Stream::~Stream() {
  Cancel();
  if (thread_.joinable()) {
    thread_.join();
    return;
  }
  v1::GenerateResponse response;
  while (reader_->Read(&response)) continue;
  reader_->Finish().IgnoreError();
}

void Stream::Read(const v1::GenerateRequest& request) {
  // Returns when the request has been sent, which may take as long as anything.
  reader_ = stub_->Generate(&context_, request);
  v1::GenerateResponse response;
  while (reader_->Read(&response)) {
    std::lock_guard lock(mutex_);
    in_prefill_ |= response.progress().phase() == v1::GenerateProgress::PHASE_PREFILL;
    if (response.has_report()) report_ = response.report();
    if (response.has_output()) {
      last_token_ = MonotonicNow();
      first_token_ = std::min(first_token_, last_token_);
      num_tokens_ += static_cast<size_t>(response.output().tokens_size());
    }
    changed_.notify_all();
  }
  const absl::Status status = FromGrpcStatus(reader_->Finish());
  std::lock_guard lock(mutex_);
  status_ = status;
  end_ = MonotonicNow();
  has_ended_ = true;
  changed_.notify_all();
}

bool Stream::WaitForPrefill() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return in_prefill_ || has_ended_; });
  return in_prefill_;
}

bool Stream::WaitForFirstToken() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return num_tokens_ > 0 || has_ended_; });
  return num_tokens_ > 0;
}

absl::Status Stream::WaitForEnd() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return has_ended_; });
  return status_;
}

bool Stream::has_ended() const {
  std::lock_guard lock(mutex_);
  return has_ended_;
}

size_t Stream::num_tokens() const {
  std::lock_guard lock(mutex_);
  return num_tokens_;
}

absl::Duration Stream::first_token() const {
  std::lock_guard lock(mutex_);
  return first_token_ - sent_;
}

absl::Duration Stream::total() const {
  std::lock_guard lock(mutex_);
  return end_ - sent_;
}

double Stream::tokens_per_second() const {
  std::lock_guard lock(mutex_);
  return static_cast<double>(num_tokens_ - 1) / absl::ToDoubleSeconds(last_token_ - first_token_);
}

}  // namespace kvship
