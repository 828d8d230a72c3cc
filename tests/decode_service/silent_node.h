// A prefill node that takes prompts, and says nothing unless it is told to.
#pragma once

#include <grpcpp/server_builder.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kv/frames.h"
#include "kvship/v1/prefill.grpc.pb.h"
#include "rpc/cache_messages.h"
#include "rpc/errors.h"
#include "rpc/sealed_message.h"
#include "rpc/wire_version.h"
#include "tests/decode_service/zero_layer.h"
#include "transport/grpc_status.h"
#include "transport/prefill_wire.h"

namespace kvship {

class SilentNode final : public v1::PrefillService::Service {
 public:
  SilentNode() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }

  grpc::Status GetModelInfo(grpc::ServerContext*, const v1::PrefillServiceGetModelInfoRequest*,
                            v1::PrefillServiceGetModelInfoResponse* response) override {
    const Sha256Digest identity = {};
    response->mutable_model()->set_identity(identity.data(), identity.size());
    response->mutable_load()->set_keeps_prefixes(true);
    response->mutable_load()->set_draining(is_draining);
    return is_stuck ? ToGrpcStatus(WithReason(absl::UnavailableError("it is stuck"), kNotReady))
                    : grpc::Status::OK;
  }

  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  // From now on prompts of this length get caches of zeros; `before_end` is called before the
  // manifest is sent, which has as many likely tokens.
  void Answer(const KvPlan& plan, std::function<void()> before_end, int num_likely = 0) {
    Take({.plan = plan, .before_end = std::move(before_end), .num_likely = num_likely});
  }
  // From now on prompts of this length come as far as memory, and are lost then, if they are the
  // first of the nodes that share the count.
  void LoseFirst(const KvPlan& plan, std::atomic<int>* num_lost) {
    Take({.plan = plan, .num_lost = num_lost});
  }
  // From now on prompts are refused so.
  void Refuse(const absl::Status& refusal) { Take({.refusal = refusal}); }

  using Stream = grpc::ServerReaderWriter<v1::PrefillResponse, v1::PrefillRequest>;
  grpc::Status Prefill(grpc::ServerContext*, Stream* stream) override {
    v1::PrefillRequest request;
    while (stream->Read(&request)) {
      prompt_came = true;
      const Orders now = orders();
      if (!now.refusal.ok()) return ToGrpcStatus(now.refusal);
      if (now.plan && request.has_begin() && (now.num_lost == nullptr || *now.num_lost == 0)) {
        SendReady(*stream, *now.plan);
      }
      if (now.num_lost != nullptr && request.has_go()) {
        ++*now.num_lost;
        return {grpc::StatusCode::UNAVAILABLE, "lost"};
      }
      if (now.plan && request.has_go()) SendCache(*stream, now);
    }
    return grpc::Status::CANCELLED;
  }

  std::atomic<bool> prompt_came{false};
  std::atomic<bool> is_stuck{false};  // it says so when it is asked
  std::atomic<bool> is_draining{false};

 private:
  struct Orders {
    std::optional<KvPlan> plan = {};
    std::function<void()> before_end = {};
    int num_likely = 0;
    absl::Status refusal = {};
    std::atomic<int>* num_lost = nullptr;
  };

  void Take(Orders orders) {
    std::lock_guard lock(mutex_);
    orders_ = std::move(orders);
  }
  Orders orders() {
    std::lock_guard lock(mutex_);
    return orders_;
  }
  static void Send(Stream& stream, const v1::PrefillResponse& message) {
    v1::PrefillResponse sealed;
    sealed.ParseFromString(Sealed(message));
    stream.Write(sealed);
  }
  static void SendReady(Stream& stream, const KvPlan& plan) {
    v1::PrefillResponse message;
    *message.mutable_ready()->mutable_wire_version() = WireVersionProto();
    message.mutable_ready()->add_transports("grpc");
    *message.mutable_ready()->mutable_plan() = PlanToProto(plan);
    Send(stream, message);
  }
  static void SendCache(Stream& stream, const Orders& orders) {
    FrameCutter cutter;
    for (size_t l = 0; l < orders.plan->layer_tokens.size(); ++l) {
      const LayerFrames frames = cutter.Cut(ZeroLayer(*orders.plan, l, 0));
      v1::PrefillResponse message;
      *message.mutable_layer() = LayerHeaderToProto(frames.header);
      Send(stream, message);
      for (const Frame& frame : frames.frames) {
        v1::PrefillResponse sent;
        sent.ParseFromString(FlatBytes(FrameMessage(frame.header, frame.payload)));
        stream.Write(sent);
      }
    }
    orders.before_end();
    v1::PrefillResponse message;
    ManifestToProto(cutter.Finish(orders.plan->prompt_tokens), message.mutable_manifest());
    v1::OutputToken& first_token = *message.mutable_manifest()->mutable_first_token();
    first_token.set_token_id(7);
    for (int i = 0; i < orders.num_likely; ++i) first_token.add_top()->set_token_id(7);
    Send(stream, message);
  }

  int port_ = 0;
  std::mutex mutex_;
  Orders orders_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace kvship
