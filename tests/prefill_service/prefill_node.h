// A prefill node inside the test's process, on a port of its own, and a client that collects what
// one Prefill call gives. The model is one of the tiny golden ones.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/crc32c.h"
#include "kv/frames.h"
#include "kvship/v1/prefill.grpc.pb.h"
#include "prefill_service/host_prompt_reader.h"
#include "prefill_service/prefill_rpc_service.h"
#include "rpc/cache_messages.h"
#include "rpc/compression.h"
#include "rpc/model_info.h"
#include "rpc/sampling.h"
#include "rpc/wire_version.h"
#include "service/rpc_server.h"
#include "transport/grpc_client.h"

namespace kvship {

// The golden model with its layers repeated `times` times: deeper, with the same shapes.
struct TinyModel {
  explicit TinyModel(size_t times = 1);

  std::unique_ptr<const Transformer> loaded;  // keeps the weights' file
  std::unique_ptr<const Transformer> repeated;
  const Transformer& transformer() const { return repeated ? *repeated : *loaded; }
  const ModelConfig& config() const { return transformer().config; }
};

struct PrefillNode {
  explicit PrefillNode(const PrefillScheduler::Options& options = {}, size_t model_times = 1,
                       size_t block_tokens = 64, size_t prefix_cache_bytes = 0);
  ~PrefillNode();

  std::string target() const { return "127.0.0.1:" + std::to_string(server->port()); }

  // A Begin that is right.
  v1::PrefillBegin Begin(const std::vector<int32_t>& tokens, const std::string& compression) const;

  // Value of a metric without labels.
  double Metric(const std::string& name) const;
  // Whether it has this value within `timeout`.
  bool Becomes(const std::string& metric, double value, absl::Duration timeout) const;

  TinyModel model;
  Sha256Digest identity;
  mutable prometheus::Registry registry;
  PrefillMetrics metrics{registry};
  Backend backend{2};
  HostPromptReader reader;
  PrefillScheduler scheduler;
  const Callers callers{{}, nullptr};
  PrefillRpcService service;
  Tracer tracer;
  Readiness readiness;
  std::unique_ptr<RpcServer> server;
  std::unique_ptr<PrefillConnection> connection;  // to itself
};

// Collects what a call gives, and receives the cache if it was given one. Answers Go on Ready if
// asked to.
class CollectedCall : public ChannelEvents {
 public:
  struct Options {
    bool says_go = true;
    SequenceCache* cache = nullptr;
  };
  explicit CollectedCall(const Options& options) : options_(options) {
    if (options.cache != nullptr) receiver_.emplace(*options.cache);
  }

  // Only a call that hangs takes as long, also under a sanitizer on a busy machine.
  static constexpr absl::Duration kHangs = absl::Minutes(10);

  // Opens the call and sends `begin`.
  static std::shared_ptr<CollectedCall> Start(PrefillNode& node, const v1::PrefillBegin& begin,
                                              const Options& options,
                                              absl::Duration timeout = kHangs);

  void OnMessage(std::span<const std::byte> message) override;
  void OnFrame(const FrameHeader& header, BytePieces payload) override;
  void OnClosed(const absl::Status& status) override;

  absl::Status WaitUntilClosed();
  // Waits for a message of this kind.
  bool WaitFor(v1::PrefillResponse::MessageCase kind, absl::Duration timeout = absl::Seconds(20));
  void SayGo();
  Channel& channel() { return *channel_; }

  std::vector<v1::PrefillResponse> messages() const {
    std::lock_guard lock(mutex_);
    return messages_;
  }
  // The first message of a kind; an empty one if there is none.
  v1::PrefillResponse First(v1::PrefillResponse::MessageCase kind) const;
  const CacheReceiver& receiver() const { return *receiver_; }
  absl::Status cache_status() const {
    std::lock_guard lock(mutex_);
    return cache_status_;
  }

 private:
  const Options options_;
  std::shared_ptr<Channel> channel_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<v1::PrefillResponse> messages_;
  std::optional<CacheReceiver> receiver_;
  absl::Status cache_status_;
  std::optional<absl::Status> closed_;
};

// Ids inside the golden models' vocabulary, a function of the seed.
std::vector<int32_t> RandomTokens(size_t num_tokens, uint64_t seed);

}  // namespace kvship
