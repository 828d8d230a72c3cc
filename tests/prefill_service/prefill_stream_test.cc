// One Prefill call over real gRPC, from Begin to the manifest.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "tests/prefill_service/prefill_node.h"

namespace kvship {
namespace {

using Kind = v1::PrefillResponse::MessageCase;

struct Golden {
  std::vector<int32_t> prompt;
  int32_t first_token;
};

Golden LlamaGolden() {
  std::ifstream file(KVSHIP_GOLDENS "/models/llama/golden.json");
  const nlohmann::json json = nlohmann::json::parse(file);
  return {json["prompt_tokens"].get<std::vector<int32_t>>(), json["greedy_tokens"][0]};
}

class PrefillStreamTest : public ::testing::Test {
 protected:
  std::unique_ptr<SequenceCache> ReserveFor(const std::vector<int32_t>& tokens,
                                            const std::string& compression) {
    const KvShape shape = ShapeOf(node_.model.config());
    const KvPlan plan = *MakePlan(*ParseCompression(compression), shape, tokens.size());
    return *SequenceCache::Reserve(*pool_, shape, plan, 32, PageFormat::kF16);
  }

  std::unique_ptr<KvPool> pool_ = *KvPool::Create(64 * KvPool::kSlabBytes);
  PrefillNode node_;
};

TEST_F(PrefillStreamTest, AWholeCacheArrivesWithTheGoldenFirstToken) {
  const Golden golden = LlamaGolden();
  const auto cache = ReserveFor(golden.prompt, "scorer=keep_all,encoder=f32");
  const absl::Time begun = MonotonicNow();
  const auto call = CollectedCall::Start(
      node_, node_.Begin(golden.prompt, "scorer=keep_all,encoder=f32"), {.cache = cache.get()});
  ASSERT_EQ(call->WaitUntilClosed(), absl::OkStatus());
  EXPECT_EQ(call->cache_status(), absl::OkStatus());
  EXPECT_TRUE(call->receiver().finished());
  const v1::PrefillManifest manifest = call->First(Kind::kManifest).manifest();
  EXPECT_EQ(manifest.first_token().token_id(), static_cast<uint32_t>(golden.first_token));
  EXPECT_EQ(manifest.next_position(), golden.prompt.size());
  EXPECT_EQ(manifest.total_bytes(), cache->plan().wire_bytes());
  EXPECT_GT(manifest.prefill_ms(), 0);
  EXPECT_GT(manifest.computed_after_ms(), 0);
  EXPECT_LE(manifest.computed_after_ms(), absl::ToDoubleMilliseconds(MonotonicNow() - begun));
}

TEST_F(PrefillStreamTest, ACompactCacheArrivesWithTheTokensThePlanPromises) {
  const std::vector<int32_t> tokens = RandomTokens(500, 1);
  const std::string compression = "budget_tokens=50,window=16,kernel=5";
  const auto cache = ReserveFor(tokens, compression);
  const auto call =
      CollectedCall::Start(node_, node_.Begin(tokens, compression), {.cache = cache.get()});
  ASSERT_EQ(call->WaitUntilClosed(), absl::OkStatus());
  EXPECT_EQ(call->cache_status(), absl::OkStatus());
  for (const LayerHeader& layer : call->receiver().layers()) {
    EXPECT_EQ(layer.kept_tokens, (std::vector<uint32_t>{50, 50}));
    EXPECT_THAT(layer.retained_mass,
                ::testing::Each(::testing::AllOf(::testing::Gt(0.0f), ::testing::Le(1.0f))));
  }
  // The window is always kept.
  EXPECT_EQ(cache->positions(1).back(), 499);
  EXPECT_EQ(cache->positions(1)[50 - 16], 484);
}

TEST_F(PrefillStreamTest, MessagesComeInTheOrderTheContractSays) {
  const std::vector<int32_t> tokens = RandomTokens(300, 2);
  const auto call = CollectedCall::Start(node_, node_.Begin(tokens, "scorer=keep_all"), {});
  ASSERT_EQ(call->WaitUntilClosed(), absl::OkStatus());
  std::vector<Kind> kinds;
  size_t num_whole = 0;
  for (const v1::PrefillResponse& message : call->messages()) {
    if (message.has_progress()) {
      num_whole += message.progress().fraction() == 1.0f;
      // Exactly 1 stands between the last layer's computation and its bytes.
      if (message.progress().fraction() == 1.0f) {
        EXPECT_EQ(kinds, (std::vector<Kind>{Kind::kReady, Kind::kLayer}));
      }
      continue;
    }
    kinds.push_back(message.message_case());
  }
  EXPECT_EQ(num_whole, 1u);
  EXPECT_EQ(kinds, (std::vector<Kind>{Kind::kReady, Kind::kLayer, Kind::kLayer, Kind::kManifest}));
}

TEST_F(PrefillStreamTest, AForcedTokenIsTheFirstWithItsLogprob) {
  v1::PrefillBegin begin = node_.Begin(RandomTokens(40, 3), "scorer=keep_all");
  begin.set_forced_token(17);
  begin.set_logprobs(3);
  const auto call = CollectedCall::Start(node_, begin, {});
  ASSERT_EQ(call->WaitUntilClosed(), absl::OkStatus());
  const v1::OutputToken first = call->First(Kind::kManifest).manifest().first_token();
  EXPECT_EQ(first.token_id(), 17u);
  EXPECT_LT(first.logprob(), 0);
  EXPECT_EQ(first.top_size(), 3);
}

TEST_F(PrefillStreamTest, TheFirstTokenIsOneOfThoseAllowed) {
  v1::PrefillBegin begin = node_.Begin(RandomTokens(40, 3), "scorer=keep_all");
  for (size_t i = 0; i < TokenMaskWords(320); ++i) begin.add_allowed_tokens(0);
  for (const uint32_t allowed : {0u, 130u, 319u}) {
    begin.mutable_allowed_tokens()->Set(allowed / 32, 1u << allowed % 32);
    const auto call = CollectedCall::Start(node_, begin, {});
    ASSERT_EQ(call->WaitUntilClosed(), absl::OkStatus());
    EXPECT_EQ(call->First(Kind::kManifest).manifest().first_token().token_id(), allowed);
    begin.mutable_allowed_tokens()->Set(allowed / 32, 0);
  }
}

TEST_F(PrefillStreamTest, AnOrdinaryClientReadsFramesAsMessages) {
  const auto channel = grpc::CreateChannel(node_.target(), grpc::InsecureChannelCredentials());
  const auto stub = v1::PrefillService::NewStub(channel);
  grpc::ClientContext context;
  const auto stream = stub->Prefill(&context);
  v1::PrefillRequest request;
  *request.mutable_begin() = node_.Begin(RandomTokens(100, 4), "scorer=keep_all,encoder=bf16");
  request.mutable_begin()->mutable_wire_version()->set_minor(1);  // it seals nothing
  ASSERT_TRUE(stream->Write(request));
  v1::PrefillResponse response;
  FrameDigest digest;
  size_t layer_bytes = 0;
  while (stream->Read(&response)) {
    if (response.has_ready()) {
      request.mutable_go()->set_transport("grpc");
      ASSERT_TRUE(stream->Write(request));
    } else if (response.has_layer()) {
      layer_bytes += response.layer().num_bytes();
    } else if (response.has_frame()) {
      const v1::KvFrame& frame = response.frame();
      EXPECT_EQ(frame.checksum_kind(), v1::CHECKSUM_CRC32C);
      EXPECT_EQ(frame.checksum(), Crc32c(std::as_bytes(std::span(frame.payload()))));
      digest.Add(frame.sequence(), static_cast<uint32_t>(frame.payload().size()), frame.checksum());
    }
  }
  ASSERT_TRUE(stream->Finish().ok());
  ASSERT_TRUE(response.has_manifest());
  EXPECT_EQ(digest.total_bytes(), layer_bytes);
  EXPECT_EQ(ManifestFromProto(response.manifest())->digest, digest.Finish());
}

TEST_F(PrefillStreamTest, TheSameBeginGivesTheSameBytes) {
  const std::vector<int32_t> tokens = RandomTokens(260, 5);
  std::vector<std::string> digests;
  for (int i = 0; i < 2; ++i) {
    const auto call = CollectedCall::Start(node_, node_.Begin(tokens, "budget_tokens=64"), {});
    ASSERT_EQ(call->WaitUntilClosed(), absl::OkStatus());
    digests.push_back(call->First(Kind::kManifest).manifest().digest());
  }
  EXPECT_EQ(digests[0], digests[1]);
}

TEST_F(PrefillStreamTest, ManyCallsAtOnceAllEndWell) {
  std::vector<std::shared_ptr<CollectedCall>> calls;
  std::vector<std::unique_ptr<SequenceCache>> caches;
  for (uint64_t i = 0; i < 12; ++i) {
    const std::vector<int32_t> tokens = RandomTokens(60 + 20 * i, i);
    caches.push_back(ReserveFor(tokens, "scorer=keep_all"));
    calls.push_back(CollectedCall::Start(node_, node_.Begin(tokens, "scorer=keep_all"),
                                         {.cache = caches.back().get()}));
  }
  for (const auto& call : calls) {
    EXPECT_EQ(call->WaitUntilClosed(), absl::OkStatus());
    EXPECT_EQ(call->cache_status(), absl::OkStatus());
    EXPECT_TRUE(call->receiver().finished());
  }
  EXPECT_EQ(node_.Metric("kvship_prefill_requests_total"), 12);
}

TEST_F(PrefillStreamTest, MetricsCountTokensAndBytes) {
  const auto call = CollectedCall::Start(
      node_, node_.Begin(RandomTokens(320, 6), "budget_tokens=64,window=32"), {});
  ASSERT_EQ(call->WaitUntilClosed(), absl::OkStatus());
  EXPECT_EQ(node_.Metric("kvship_prefill_prompt_tokens_total"), 320);
  // 2 layers x 2 heads x 320 tokens of K and V of 16 f16 elements.
  EXPECT_EQ(node_.Metric("kvship_prefill_uncompressed_bytes_total"), 2 * 2 * 320 * 2 * 16 * 2);
  // 64 of them, with their positions.
  EXPECT_EQ(node_.Metric("kvship_prefill_shipped_bytes_total"),
            2 * 2 * 64 * (2 * 16 * 2 + sizeof(int32_t)));
  EXPECT_EQ(node_.Metric("kvship_prefill_retained_mass_ratio"), 2);
}

TEST_F(PrefillStreamTest, GetModelInfoTellsTheModel) {
  const auto stub = v1::PrefillService::NewStub(
      grpc::CreateChannel(node_.target(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  v1::PrefillServiceGetModelInfoResponse response;
  ASSERT_TRUE(stub->GetModelInfo(&context, {}, &response).ok());
  EXPECT_EQ(response.model().vocab_tokens(), 320u);
  EXPECT_TRUE(CheckModelIdentity(response.model().identity(), node_.identity).ok());
  EXPECT_EQ(response.model().context_tokens(), node_.model.config().context_tokens);
  EXPECT_FALSE(response.model().has_default_compression()) << "each request says all of its own";
}

TEST(PrefillRpcService, TakesAMaskOfTheVocabularyBesideAWholeContext) {
  ModelConfig config;
  config.context_tokens = 1000;
  config.vocab_tokens = size_t{1} << 22;
  v1::PrefillBegin begin;
  for (size_t i = 0; i < config.context_tokens; ++i) begin.add_tokens(UINT32_MAX);
  for (size_t i = 0; i < config.vocab_tokens / 32; ++i) begin.add_allowed_tokens(UINT32_MAX);
  EXPECT_GT(PrefillRpcService::MostMessageBytes(config), begin.ByteSizeLong());
}

}  // namespace
}  // namespace kvship
