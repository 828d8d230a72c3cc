// Stream is one Generate call on its way, with the times at which its parts came: for tests of what
// requests do to each other.
#pragma once

#include <grpcpp/client_context.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kvship/v1/generation.grpc.pb.h"
#include "tests/e2e/processes.h"

namespace kvship {

class Stream {
 public:
  struct Options {
    std::string api_token = {};
    absl::Duration timeout = absl::Seconds(60);  // infinite: the server's
    // Else nothing is read: the answer stands still when what lies between has filled up, and the
    // request keeps its memory.
    bool reads = true;
    std::shared_ptr<grpc::Channel> channel = nullptr;  // none: a connection of its own
  };

  // A connection in which little lies unread.
  static std::shared_ptr<grpc::Channel> Connect(const Server& decode);

  // Sends the request.
  Stream(const Server& decode, const v1::GenerateRequest& request)
      : Stream(decode, request, Options()) {}
  Stream(const Server& decode, const v1::GenerateRequest& request, const Options& options);
  // Cancels it.
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void Cancel() { context_.TryCancel(); }

  // The rest is for streams that are read.
  bool WaitForPrefill();  // that the prompt is being read
  bool WaitForFirstToken();
  absl::Status WaitForEnd();

  bool has_ended() const;
  size_t num_tokens() const;
  // Since it was sent.
  absl::Duration first_token() const;
  absl::Duration total() const;
  // From the first output token to the last.
  double tokens_per_second() const;
  const v1::GenerateReport& report() const { return report_; }  // once it has ended

 private:
  void Read(const v1::GenerateRequest& request);

  const std::unique_ptr<v1::GenerationService::Stub> stub_;
  grpc::ClientContext context_;
  // Of the thread, where there is one.
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool in_prefill_ = false;
  bool has_ended_ = false;
  size_t num_tokens_ = 0;
  const absl::Time sent_;
  absl::Time first_token_ = absl::InfiniteFuture();
  absl::Time last_token_ = absl::InfiniteFuture();
  absl::Time end_ = absl::InfiniteFuture();
  absl::Status status_;
  v1::GenerateReport report_;
  std::thread thread_;
};

}  // namespace kvship
