// Channels over real gRPC on the loopback interface.
#include <gmock/gmock.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <mutex>

#include "kvship/v1/prefill.grpc.pb.h"
#include "tests/eventually.h"
#include "tests/transport/recorded_events.h"
#include "transport/grpc_client.h"
#include "transport/grpc_server.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;

const std::string kHello("\x0a\x00", 2);  // a serialized message with an empty field 1

SharedBytes Payload(size_t num_bytes, std::byte fill) {
  auto buffer = std::make_shared<Buffer>(num_bytes);
  std::fill_n(buffer->data(), num_bytes, fill);
  return {buffer->bytes(), buffer};
}

// Serves Prefill with what a test does to each new channel: one channel, unless `accept` is given.
class Server
    : public v1::PrefillService::WithRawCallbackMethod_Prefill<v1::PrefillService::Service> {
 public:
  explicit Server(const GrpcServerChannelOptions& options = {}, AcceptChannel accept = nullptr)
      : options_(options), accept_(std::move(accept)) {
    if (!accept_) {
      accept_ = [this](const std::shared_ptr<FrameChannel>& channel) {
        this->channel = channel;
        return events;
      };
    }
    grpc::ServerBuilder builder;
    // Otherwise the system may give two servers the same free port.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);  // clients ping each second
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~Server() override { server_->Shutdown(absl::ToChronoTime(absl::Now())); }

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Prefill(
      grpc::CallbackServerContext* context) override {
    return ServeChannel(context, options_, deadlines_, accept_);
  }

  std::function<void(FrameChannel&, const std::string&)> on_message;
  std::shared_ptr<RecordedEvents> events =
      std::make_shared<RecordedEvents>([this](const std::string& message) {
        std::lock_guard lock(mutex_);
        if (on_message) on_message(*channel, message);
      });
  std::shared_ptr<FrameChannel> channel;

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  std::shared_ptr<Channel> Connect(const std::shared_ptr<RecordedEvents>& client,
                                   absl::Duration timeout = absl::Seconds(30)) {
    {
      // Threads that gRPC hands a message to lock this first, and so see what was to become of it.
      std::lock_guard lock(mutex_);
      connection_ = std::make_unique<PrefillConnection>(address(), PrefillConnection::Options());
    }
    return connection_->Open(absl::Now() + timeout, client);
  }

 private:
  const GrpcServerChannelOptions options_;
  DeadlineWatch deadlines_;
  AcceptChannel accept_;
  int port_ = 0;
  std::mutex mutex_;
  std::unique_ptr<PrefillConnection> connection_;
  std::unique_ptr<grpc::Server> server_;
};

TEST(GrpcChannel, MovesMessagesAndFramesInOrderAndEndsWell) {
  Server server;
  server.on_message = [](FrameChannel& channel, const std::string&) {
    channel.SendMessage(kHello);
    for (uint32_t i = 0; i < 20; ++i) {
      channel.SendFrame({.sequence = i, .num_bytes = 1 << 20, .crc32c = i},
                        Payload(1 << 20, static_cast<std::byte>(i)));
    }
    channel.Close(absl::OkStatus());
  };
  auto client = std::make_shared<RecordedEvents>();
  const auto channel = server.Connect(client);
  channel->SendMessage("begin");
  EXPECT_EQ(client->WaitUntilClosed(), absl::OkStatus());
  EXPECT_THAT(server.events->messages(), ElementsAre("begin"));
  EXPECT_THAT(client->messages(), ElementsAre(kHello));
  const auto frames = client->frames();
  ASSERT_EQ(frames.size(), 20u);
  for (uint32_t i = 0; i < 20; ++i) {
    EXPECT_EQ(frames[i].header.sequence, i);
    EXPECT_EQ(frames[i].header.crc32c, i);
    EXPECT_EQ(frames[i].payload, std::string(1 << 20, static_cast<char>(i)));
  }
}

TEST(GrpcChannel, ManyCallsAtOnceEndEachAsItsServerSays) {
  const Server server({}, [](const std::shared_ptr<FrameChannel>& channel) {
    return std::make_shared<RecordedEvents>(
        [channel = std::weak_ptr(channel)](const std::string& message) {
          channel.lock()->SendMessage(kHello);
          channel.lock()->Close(absl::AbortedError(message));
        });
  });
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 8; ++caller) {
    callers.emplace_back([caller, &server] {
      for (int call = 0; call < 5; ++call) {
        const std::string message = std::to_string(caller * 10 + call);
        PrefillConnection connection(server.address(), PrefillConnection::Options());
        auto client = std::make_shared<RecordedEvents>();
        connection.Open(absl::Now() + absl::Seconds(30), client)->SendMessage(message);
        EXPECT_EQ(client->WaitUntilClosed(), absl::AbortedError(message));
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

TEST(GrpcChannel, AMessageThatMemoryDoesNotHoldEndsTheStream) {
  const auto run_out = [](const std::string&) { throw std::bad_alloc(); };
  {
    const Server server({}, [&](const std::shared_ptr<FrameChannel>&) {
      return std::make_shared<RecordedEvents>(run_out);
    });
    PrefillConnection connection(server.address(), PrefillConnection::Options());
    auto client = std::make_shared<RecordedEvents>();
    connection.Open(absl::Now() + absl::Seconds(5), client)->SendMessage("begin");
    EXPECT_TRUE(absl::IsResourceExhausted(client->WaitUntilClosed()));
  }
  Server server;
  server.on_message = [](Channel& channel, const std::string&) { channel.SendMessage(kHello); };
  auto client = std::make_shared<RecordedEvents>(run_out);
  server.Connect(client, absl::Seconds(5))->SendMessage("begin");
  EXPECT_TRUE(absl::IsResourceExhausted(client->WaitUntilClosed()));
  EXPECT_TRUE(absl::IsCancelled(server.events->WaitUntilClosed()));
}

TEST(GrpcChannel, TheServersErrorArrivesWithItsDetails) {
  Server server;
  absl::Status status = absl::ResourceExhaustedError("full");
  status.SetPayload("type.googleapis.com/google.rpc.RetryInfo", absl::Cord("\x0a\x02\x08\x03"));
  server.on_message = [&](Channel& channel, const std::string&) { channel.Close(status); };
  auto client = std::make_shared<RecordedEvents>();
  server.Connect(client)->SendMessage("begin");
  EXPECT_EQ(client->WaitUntilClosed(), status);
}

TEST(GrpcChannel, AClientsCloseCancelsTheServersSide) {
  Server server;
  auto client = std::make_shared<RecordedEvents>();
  server.on_message = [](Channel& channel, const std::string&) { channel.SendMessage(kHello); };
  const auto channel = server.Connect(client);
  channel->SendMessage("begin");
  ASSERT_TRUE(client->WaitForMessages(1));
  channel->Close(absl::AbortedError("no longer wanted"));
  EXPECT_EQ(client->WaitUntilClosed(), absl::AbortedError("no longer wanted"));
  EXPECT_EQ(server.events->WaitUntilClosed().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(server.events->closed().size(), 1u);
  EXPECT_EQ(server.channel->unsent_bytes(), 0u);
  channel->SendMessage("nobody reads this");
  server.channel->SendMessage("nobody reads this");
  EXPECT_EQ(server.channel->unsent_bytes(), 17u);
}

TEST(GrpcChannel, AClientsErrorAfterItsOkCancelsTheServersSide) {
  Server server;
  auto client = std::make_shared<RecordedEvents>();
  server.on_message = [](Channel& channel, const std::string&) { channel.SendMessage(kHello); };
  const auto channel = server.Connect(client);
  channel->SendMessage("begin");
  ASSERT_TRUE(client->WaitForMessages(1));
  channel->Close(absl::OkStatus());
  server.channel->SendMessage("\x7a\x7f too short");  // it does not end, and sends what is nothing
  EXPECT_TRUE(absl::IsDataLoss(client->WaitUntilClosed()));
  EXPECT_TRUE(absl::IsCancelled(server.events->WaitUntilClosed()));
}

TEST(GrpcChannel, TheDeadlineEndsBothSides) {
  // On a busy machine the call may arrive so late that the client's deadline is long before ours.
  bool expired = false;
  for (int i = 0; i < 20 && !expired; ++i) {
    Server server;
    auto client = std::make_shared<RecordedEvents>();
    server.Connect(client, absl::Milliseconds(200))->SendMessage("begin");
    EXPECT_TRUE(absl::IsDeadlineExceeded(client->WaitUntilClosed()));
    const absl::Status end = server.events->WaitUntilClosed();
    expired = absl::IsDeadlineExceeded(end);
    EXPECT_TRUE(expired || absl::IsCancelled(end)) << end;
  }
  EXPECT_TRUE(expired);
}

TEST(GrpcChannel, AServerThatIsNotThereIsUnavailable) {
  PrefillConnection connection("127.0.0.1:1", PrefillConnection::Options());
  auto client = std::make_shared<RecordedEvents>();
  connection.Open(absl::Now() + absl::Seconds(20), client)->SendMessage("begin");
  EXPECT_EQ(client->WaitUntilClosed().code(), absl::StatusCode::kUnavailable);
}

TEST(GrpcChannel, AStreamWithoutAFirstMessageIsEnded) {
  Server server({.first_message_timeout = absl::Milliseconds(50)});
  auto client = std::make_shared<RecordedEvents>();
  server.Connect(client);
  // Not DeadlineExceeded: no request's deadline has passed.
  EXPECT_EQ(client->WaitUntilClosed().code(), absl::StatusCode::kAborted);
}

TEST(GrpcChannel, BytesThatAreNoResponseEndTheClientsSide) {
  Server server;
  server.on_message = [](Channel& channel, const std::string&) {
    channel.SendMessage("\x7a\x7f too short");
  };
  auto client = std::make_shared<RecordedEvents>();
  server.Connect(client)->SendMessage("begin");
  EXPECT_EQ(client->WaitUntilClosed().code(), absl::StatusCode::kDataLoss);
}

// A client whose reading waits until it is let go on.
struct StalledEvents : RecordedEvents {
  void OnFrame(const FrameHeader& header, BytePieces pieces) override {
    {
      std::unique_lock lock(mutex);
      let_go.wait(lock, [this] { return goes_on; });
    }
    RecordedEvents::OnFrame(header, pieces);
  }
  void GoOn() {
    std::lock_guard lock(mutex);
    goes_on = true;
    let_go.notify_all();
  }
  std::mutex mutex;
  std::condition_variable let_go;
  bool goes_on = false;
};

// Flow control lets a part through, at times seconds later a further one, but never half of it:
// waits until no more goes for a while. Returns what is unsent.
size_t BytesOnceStalled(const FrameChannel& channel) {
  size_t before = SIZE_MAX;
  while (channel.unsent_bytes() < before) {
    before = channel.unsent_bytes();
    absl::SleepFor(absl::Seconds(1));
  }
  return before;
}

// More than flow control lets through to who reads nothing: so many frames of 1 MiB.
constexpr size_t kMuchFrames = 64;
void SendMuch(FrameChannel& channel) {
  for (uint32_t i = 0; i < kMuchFrames; ++i) {
    channel.SendFrame({.sequence = i, .num_bytes = 1 << 20}, Payload(1 << 20, std::byte{1}));
  }
}

TEST(GrpcChannel, WhatAStalledReaderDoesNotTakeStaysUnsentUntilItDoes) {
  Server server;
  server.on_message = [](FrameChannel& channel, const std::string&) { SendMuch(channel); };
  auto client = std::make_shared<StalledEvents>();
  server.Connect(client)->SendMessage("begin");
  ASSERT_TRUE(server.events->WaitForMessages(1));
  EXPECT_GT(BytesOnceStalled(*server.channel), size_t{kMuchFrames / 2} << 20);
  client->GoOn();
  ASSERT_TRUE(client->WaitForFrames(kMuchFrames));
  // That the last has been sent is told on another thread.
  EXPECT_TRUE(Eventually([&] { return server.channel->unsent_bytes() == 0; }));
  EXPECT_GE(server.events->num_sent(), kMuchFrames - 1);
  server.channel->Close(absl::OkStatus());
  EXPECT_EQ(client->WaitUntilClosed(), absl::OkStatus());
}

TEST(GrpcChannel, ASlowReaderGetsAllThatIsLeftInAClosedChannel) {
  struct SlowEvents : RecordedEvents {
    void OnFrame(const FrameHeader&, BytePieces) override {
      absl::SleepFor(absl::Milliseconds(10));
      ++num_frames;
    }
    std::atomic<size_t> num_frames{0};
  };
  // Takes longer than it may linger in all; windows let some 30 frames through at a time.
  constexpr size_t kFrames = 256;
  Server server({.linger = absl::Seconds(1.5)});
  server.on_message = [](FrameChannel& channel, const std::string&) {
    const SharedBytes payload = Payload(1 << 20, std::byte{1});
    for (uint32_t i = 0; i < kFrames; ++i) {
      channel.SendFrame({.sequence = i, .num_bytes = 1 << 20}, payload);
    }
    channel.Close(absl::OkStatus());
  };
  auto client = std::make_shared<SlowEvents>();
  server.Connect(client)->SendMessage("begin");
  EXPECT_EQ(client->WaitUntilClosed(), absl::OkStatus());
  EXPECT_EQ(client->num_frames, kFrames);
}

class StalledReader : public ::testing::TestWithParam<absl::Duration> {};

// The second one: after an error a peer has seconds, however long it has else.
INSTANTIATE_TEST_SUITE_P(GrpcChannel, StalledReader,
                         ::testing::Values(absl::Milliseconds(100), absl::Minutes(10)));

TEST_P(StalledReader, CannotHoldAClosedChannelForEver) {
  Server server({.linger = GetParam()});
  server.on_message = [](FrameChannel& channel, const std::string&) { SendMuch(channel); };
  auto client = std::make_shared<StalledEvents>();
  server.Connect(client)->SendMessage("begin");
  ASSERT_TRUE(server.events->WaitForMessages(1));
  BytesOnceStalled(*server.channel);
  server.channel->Close(absl::InternalError("given up"));
  // Unless flow control has let the last message through meanwhile.
  const absl::Status end = server.events->WaitUntilClosed();
  EXPECT_TRUE(absl::IsCancelled(end) || end == absl::InternalError("given up")) << end;
  client->GoOn();
  EXPECT_FALSE(client->WaitUntilClosed().ok());
}

TEST(GrpcChannel, AfterAnErrorNothingIsSentButWhatWasBeingWritten) {
  Server server;
  server.on_message = [](FrameChannel& channel, const std::string&) { SendMuch(channel); };
  auto client = std::make_shared<StalledEvents>();
  server.Connect(client)->SendMessage("begin");
  ASSERT_TRUE(server.events->WaitForMessages(1));
  BytesOnceStalled(*server.channel);
  server.channel->Close(absl::InternalError("given up"));
  client->GoOn();
  EXPECT_EQ(client->WaitUntilClosed(), absl::InternalError("given up"));
  EXPECT_LT(client->frames().size(), kMuchFrames * 3 / 4);
}

TEST(GrpcChannel, AConnectionThatGoesDoesNotWaitForAServerThatDoesNotEndAClosedCall) {
  Server server;
  auto client = std::make_shared<RecordedEvents>();
  absl::Time begin;
  {
    PrefillConnection connection(server.address(), PrefillConnection::Options());
    const auto channel = connection.Open(absl::Now() + absl::Seconds(3), client);
    channel->SendMessage("begin");
    ASSERT_TRUE(server.events->WaitForMessages(1));
    channel->Close(absl::OkStatus());
    begin = absl::Now();
  }
  EXPECT_LT(absl::Now() - begin, absl::Seconds(1));
  EXPECT_TRUE(absl::IsCancelled(client->WaitUntilClosed()));
}

}  // namespace
}  // namespace kvship
