// A prefill node that answers what it is told to, when it is asked for its model and its load.
#pragma once

#include <grpcpp/server_builder.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "kvship/v1/prefill.grpc.pb.h"
#include "transport/grpc_status.h"

namespace kvship {

class FakeNode final : public v1::PrefillService::Service {
 public:
  explicit FakeNode(int port = 0) {
    model.fill(std::byte{1});
    grpc::ServerBuilder builder;
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddListeningPort(absl::StrCat("127.0.0.1:", port), grpc::InsecureServerCredentials(),
                             &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }

  int port() const { return port_; }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  void Stop() { server_->Shutdown(std::chrono::system_clock::now()); }

  void SetStatus(const absl::Status& status) {
    std::lock_guard lock(mutex_);
    status_ = status;
  }
  void KeepPrefixes() {
    std::lock_guard lock(mutex_);
    load_.set_keeps_prefixes(true);
  }
  void SetLoad(uint64_t prompt_tokens, bool draining = false) {
    std::lock_guard lock(mutex_);
    load_.set_prompt_tokens(prompt_tokens);
    load_.set_draining(draining);
  }

  grpc::Status GetModelInfo(grpc::ServerContext*, const v1::PrefillServiceGetModelInfoRequest*,
                            v1::PrefillServiceGetModelInfoResponse* response) override {
    std::lock_guard lock(mutex_);
    response->mutable_model()->set_identity(model.data(), model.size());
    *response->mutable_load() = load_;
    ++num_checks_;
    return ToGrpcStatus(status_);
  }

  // Waits until what was set has been told.
  void WaitUntilTold() const {
    const size_t before = num_checks_;
    // The check that is under way may have been answered before.
    while (num_checks_ < before + 2) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }

  Sha256Digest model;

 private:
  std::mutex mutex_;
  absl::Status status_;
  v1::PrefillLoad load_;
  std::atomic<size_t> num_checks_{0};
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace kvship
