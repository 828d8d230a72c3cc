#include "transport/grpc_client.h"

#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/internal/sysinfo.h"
#include "base/out_of_memory.h"
#include "base/status_macros.h"
#include "transport/grpc_outbox.h"
#include "transport/grpc_status.h"
#include "transport/prefill_wire.h"

namespace kvship {
namespace {

constexpr char kPrefillMethod[] = "/kvship.v1.PrefillService/Prefill";

// Frames, and the control messages of the largest models, stay far below.
constexpr int kMostMessageBytes = 8 << 20;

// How long a connection may be silent before the peer is asked for a sign of life, and how long it
// has to answer before all calls end with Unavailable and the next one connects anew: bytes that a
// network has lost for good must not hold a prompt until its deadline. Answers to health checks
// break the silence more often than that, so that sound connections are not asked.
constexpr int kKeepaliveMs = 1'000;
constexpr int kKeepaliveTimeoutMs = 4'000;

}  // namespace

class GrpcClientChannel;

class PrefillConnection::OpenCalls {
 public:
  void Add(GrpcClientChannel* call) {
    std::lock_guard lock(mutex_);
    calls_.insert(call);
  }
  void Remove(GrpcClientChannel* call) {
    std::lock_guard lock(mutex_);
    calls_.erase(call);
    changed_.notify_all();
  }
  void EndAll();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<GrpcClientChannel*> calls_;  // each holds itself until it has been removed
};

class GrpcClientChannel final : public Channel,
                                public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                                public std::enable_shared_from_this<GrpcClientChannel> {
 public:
  GrpcClientChannel(std::shared_ptr<PrefillConnection::OpenCalls> open_calls,
                    std::shared_ptr<ChannelEvents> events)
      : open_calls_(std::move(open_calls)), events_(std::move(events)) {}

  void Start(grpc::GenericStub& stub, absl::Time deadline, const CallMetadata& metadata) {
    {
      // Threads that gRPC hands the call to lock one of these first, and so see all that was made.
      std::scoped_lock lock(mutex_, events_mutex_);
      self_ = shared_from_this();
    }
    open_calls_->Add(this);
    context_->set_deadline(absl::ToChronoTime(deadline));
    for (const auto& [name, value] : metadata) context_->AddMetadata(name, value);
    stub.PrepareBidiStreamingCall(context_.get(), kPrefillMethod, {}, this);
    AddHold();  // writes start outside of reactions: until OnReadDone says that the stream ended
    StartRead(&incoming_);
    StartCall();
  }

  void SendMessage(std::string message) override {
    const grpc::Slice slice(message);
    std::lock_guard lock(mutex_);
    if (!writable_ || closed_) return;
    outbox_.Push(grpc::ByteBuffer(&slice, 1));
    WriteNext();
  }

  void Close(absl::Status status) override {
    std::lock_guard lock(mutex_);
    if (closed_ && (status.ok() || !close_status_.ok())) return;
    closed_ = true;
    close_status_ = std::move(status);
    if (close_status_.ok()) {
      WriteNext();
    } else {
      writable_ = false;
      outbox_.DropWaiting();
      if (context_ != nullptr) context_->TryCancel();
    }
  }

  // Whether this thread is inside one of the call's events.
  bool IsDelivering() const { return event_thread_ == std::this_thread::get_id(); }

  void OnReadDone(bool ok) override {
    if (!ok) {
      {
        std::lock_guard lock(mutex_);
        writable_ = false;
        outbox_.DropWaiting();
      }
      RemoveHold();
      return;
    }
    // gRPC would drop the exception, and nothing would be read any more.
    const absl::Status taken = UnlessOutOfMemory([this] { return TakeResponse(); });
    if (!taken.ok()) Close(taken);
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    outbox_.EndWrite(ok);
    if (!ok) {
      writable_ = false;
      outbox_.DropWaiting();
    }
    if (writable_) WriteNext();
  }

  void OnDone(const grpc::Status& status) override {
    const absl::Status closed = [&] {
      std::lock_guard lock(mutex_);
      return close_status_.ok() ? FromGrpcStatus(status) : close_status_;
    }();
    Deliver([&](ChannelEvents& events) {
      events.OnClosed(closed);
      events_.reset();
    });
    {
      // The context holds the connection's grpc::Channel. Whoever drops the last reference to that
      // waits for gRPC's callback threads, and this is one of them.
      std::lock_guard lock(mutex_);
      context_.reset();
    }
    open_calls_->Remove(this);
    const std::shared_ptr<GrpcClientChannel> last = std::move(self_);
  }

 private:
  absl::Status TakeResponse() {
    const absl::StatusOr<ReceivedResponse> response = ReadResponse(incoming_);
    RETURN_IF_ERROR(response.status());
    Deliver([&](ChannelEvents& events) {
      if (response->is_frame) {
        events.OnFrame(response->header, response->payload);
      } else {
        events.OnMessage(std::as_bytes(std::span(response->bytes)));
      }
    });
    return absl::OkStatus();
  }

  void WriteNext() {
    if (const grpc::ByteBuffer* next = outbox_.Next()) {
      StartWrite(next);
    } else if (closed_ && outbox_.empty() && writable_) {
      writable_ = false;
      StartWritesDone();
    }
  }

  template <class Event>
  void Deliver(const Event& event) {
    std::lock_guard lock(events_mutex_);
    event_thread_ = std::this_thread::get_id();
    event(*events_);
    event_thread_ = std::thread::id();
  }

  const std::shared_ptr<PrefillConnection::OpenCalls> open_calls_;  // shared with the connection
  std::unique_ptr<grpc::ClientContext> context_ = std::make_unique<grpc::ClientContext>();
  grpc::ByteBuffer incoming_;

  mutable std::mutex mutex_;
  GrpcOutbox outbox_;
  bool writable_ = true;
  bool closed_ = false;
  absl::Status close_status_;

  std::atomic<std::thread::id> event_thread_;
  std::mutex events_mutex_;                  // events come one at a time
  std::shared_ptr<ChannelEvents> events_;    // shared: kept until OnClosed, whoever opened the call
  std::shared_ptr<GrpcClientChannel> self_;  // until gRPC is done with the reactor
};

void PrefillConnection::OpenCalls::EndAll() {
  std::vector<std::shared_ptr<GrpcClientChannel>> open;
  {
    std::lock_guard lock(mutex_);
    for (GrpcClientChannel* call : calls_) open.push_back(call->shared_from_this());
  }
  for (const auto& call : open) call->Close(absl::CancelledError("the connection is closed"));
  open.clear();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] {
    return std::all_of(calls_.begin(), calls_.end(),
                       [](const GrpcClientChannel* call) { return call->IsDelivering(); });
  });
}

namespace {

std::shared_ptr<grpc::Channel> Connect(const std::string& target,
                                       const PrefillConnection::Options& options) {
  // gRPC 1.51 reads connect()'s errno after it has taken a lock. The first time that Abseil waits
  // for one it looks up this number, once for the process, and leaves an ENOENT in errno.
  absl::base_internal::NominalCPUFrequency();
  grpc::ChannelArguments args;
  // Bulk streams must not share a connection with other channels of the process.
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  args.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  // A prompt may compute for minutes without a byte on the wire.
  args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Between two checks, neither of which is answered, there may be no call.
  args.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // A node that comes back is found within seconds; gRPC's own pauses grow to two minutes.
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  // Despite its name the time that an attempt to connect may take, handshake included.
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5'000);
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2'000);
  if (!options.server_name.empty()) {
    args.SetString(GRPC_ARG_DEFAULT_AUTHORITY, options.server_name);
  }
  args.SetMaxReceiveMessageSize(kMostMessageBytes);
  args.SetInt(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);  // it knows no bounds
  args.SetMaxSendMessageSize(-1);
  return grpc::CreateCustomChannel(
      target, options.credentials ? options.credentials : grpc::InsecureChannelCredentials(), args);
}

}  // namespace

PrefillConnection::PrefillConnection(const std::string& target, const Options& options)
    : open_calls_(std::make_shared<OpenCalls>()),
      channel_(Connect(target, options)),
      stub_(channel_) {}

PrefillConnection::~PrefillConnection() { open_calls_->EndAll(); }

std::shared_ptr<Channel> PrefillConnection::Open(absl::Time deadline,
                                                 std::shared_ptr<ChannelEvents> events,
                                                 const CallMetadata& metadata) {
  auto channel = std::make_shared<GrpcClientChannel>(open_calls_, std::move(events));
  channel->Start(stub_, deadline, metadata);
  return channel;
}

}  // namespace kvship
