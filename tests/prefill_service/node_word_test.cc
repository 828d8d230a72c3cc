// What a prefill node tells those who choose among nodes: its load, that it drains, that it is
// stuck.
#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <gtest/gtest.h>

#include <future>

#include "kv/prefix_digests.h"
#include "rpc/errors.h"
#include "tests/eventually.h"
#include "tests/prefill_service/prefill_node.h"
#include "transport/grpc_status.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<v1::PrefillLoad> LoadOf(PrefillNode& node) {
  const auto stub = v1::PrefillService::NewStub(node.connection->grpc_channel());
  grpc::ClientContext context;
  v1::PrefillServiceGetModelInfoResponse response;
  const absl::Status status = FromGrpcStatus(stub->GetModelInfo(&context, {}, &response));
  if (!status.ok()) return status;
  return response.load();
}

// A stream whose frames go nowhere until it is released; the engine thread waits for it.
class WedgedChannel final : public FrameChannel {
 public:
  void SendMessage(std::string) override {}
  void SendFrame(const FrameHeader&, SharedBytes) override { released_.wait(); }
  size_t unsent_bytes() const override { return 0; }
  void Close(absl::Status) override {}
  void Release() { release_.set_value(); }

 private:
  std::promise<void> release_;
  const std::shared_future<void> released_ = release_.get_future().share();
};

TEST(NodeWordTest, LoadIsTheTokensThatItHasToRead) {
  PrefillNode node;
  EXPECT_EQ(LoadOf(node)->prompt_tokens(), 0u);
  const auto first = CollectedCall::Start(node, node.Begin(RandomTokens(100, 1), "scorer=keep_all"),
                                          {.says_go = false});
  const auto second = CollectedCall::Start(node, node.Begin(RandomTokens(30, 2), "scorer=keep_all"),
                                           {.says_go = false});
  EXPECT_TRUE(Eventually([&node] { return LoadOf(node)->prompt_tokens() == 130; }));
  first->channel().Close(absl::CancelledError("enough"));
  EXPECT_TRUE(Eventually([&node] { return LoadOf(node)->prompt_tokens() == 30; }));
  second->SayGo();
  EXPECT_EQ(second->WaitUntilClosed(), absl::OkStatus());
  EXPECT_TRUE(Eventually([&node] { return LoadOf(node)->prompt_tokens() == 0; }));
  EXPECT_FALSE(LoadOf(node)->draining());
}

TEST(NodeWordTest, LoadLeavesOutWhatIsCachedAndWhatIsRead) {
  constexpr size_t kModelTimes = 32;  // deep, so that it takes steps
  PrefillNode node({}, kModelTimes, 64,
                   16 * PrefillEngine::PrefixBlockBytes(TinyModel(kModelTimes).config()));
  const v1::PrefillBegin begin = node.Begin(RandomTokens(1000, 1), "scorer=keep_all");
  const auto load = [&node] { return LoadOf(node)->prompt_tokens(); };
  const auto first = CollectedCall::Start(node, begin, {.says_go = false});
  EXPECT_TRUE(Eventually([&] { return load() == 1000; }));
  first->SayGo();
  ASSERT_TRUE(first->WaitFor(v1::PrefillResponse::kProgress));
  EXPECT_TRUE(Eventually([&] { return load() < 1000; }));
  EXPECT_EQ(first->WaitUntilClosed(), absl::OkStatus());

  const auto again = CollectedCall::Start(node, begin, {.says_go = false});
  EXPECT_TRUE(Eventually([&] { return load() == 1000 - 3 * kPrefixBlockTokens; }));
  EXPECT_EQ(node.scheduler.admitted_tokens(), 1000u) << "it waits whole in memory";
  EXPECT_EQ(node.scheduler.Prompts().at(0).fraction, 0) << "its run has not begun";
  again->SayGo();
  EXPECT_EQ(again->WaitUntilClosed(), absl::OkStatus());
  EXPECT_TRUE(Eventually([&] { return load() == 0; }));
}

TEST(NodeWordTest, DrainingIsToldBeforeAndWhileRequestsAreRefused) {
  PrefillNode node;
  node.readiness.StartDraining();
  EXPECT_TRUE(LoadOf(node)->draining());
  const v1::PrefillBegin begin = node.Begin(RandomTokens(20, 1), "scorer=keep_all");
  EXPECT_EQ(CollectedCall::Start(node, begin, {})->WaitUntilClosed(), absl::OkStatus());

  node.scheduler.StartDraining();
  const absl::Status refused = CollectedCall::Start(node, begin, {})->WaitUntilClosed();
  EXPECT_TRUE(absl::IsUnavailable(refused)) << refused;
  EXPECT_EQ(ReasonOf(refused), kDraining);
  EXPECT_TRUE(LoadOf(node)->draining());
}

TEST(NodeWordTest, StepThatDoesNotEndMakesTheNodeUnreadyAndSaysWhy) {
  // The engine thread looks up at least every 200 ms.
  PrefillNode node({.stuck_timeout = absl::Milliseconds(500)});
  EXPECT_EQ(node.readiness.Check(), absl::OkStatus());
  const auto channel = std::make_shared<WedgedChannel>();
  const v1::PrefillBegin begin = node.Begin(RandomTokens(20, 1), "scorer=keep_all");
  const auto request =
      node.scheduler.Submit(*ReadBegin(begin, node.model.config(), node.identity), channel);
  ASSERT_TRUE(request.ok()) << request.status();
  ASSERT_EQ(node.scheduler.Go(**request), absl::OkStatus());

  ASSERT_TRUE(Eventually([&node] { return !node.readiness.Check().ok(); }));
  EXPECT_THAT(std::string(node.readiness.Check().message()), HasSubstr("in one step for"));
  const absl::Status told = LoadOf(node).status();
  EXPECT_TRUE(absl::IsUnavailable(told)) << told;
  EXPECT_EQ(ReasonOf(told), kNotReady);
  EXPECT_THAT(std::string(told.message()), HasSubstr("in one step for"));

  channel->Release();
  EXPECT_TRUE(Eventually([&node] { return node.readiness.Check().ok(); }));
  EXPECT_TRUE(Eventually([&node] { return LoadOf(node).ok(); }));
}

}  // namespace
}  // namespace kvship
