#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/cord.h"
#include "engine/model_identity.h"
#include "google/rpc/error_details.pb.h"
#include "rpc/cache_messages.h"
#include "rpc/compression.h"
#include "rpc/errors.h"
#include "rpc/model_info.h"
#include "rpc/request_id.h"
#include "rpc/sampling.h"
#include "rpc/wire_version.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::UnorderedElementsAreArray;

constexpr KvShape kShape = {
    .num_layers = 3, .num_kv_heads = 2, .num_query_heads = 4, .head_dim = 8};

TEST(CompressionProto, HasAFieldForEveryOptionAndNoOther) {
  CompressionOptions ratio;
  ratio.budget_ratio = 0.25;
  std::set<std::string> names;
  const CompressionOptions all = *ParseCompression(
      "window_encoder=f16,sinks=1,recent_tokens=2,observe_begin=-40,observe_end=-8");
  for (const auto& options : {all, ratio}) {
    for (const auto& [name, value] : CompressionFields(options)) names.insert(name);
  }
  std::set<std::string> fields;
  const auto* descriptor = v1::CompressionOptions::descriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) fields.insert(descriptor->field(i)->name());
  EXPECT_EQ(names, fields);
}

TEST(CompressionProto, RoundTripKeepsEveryOption) {
  constexpr char kVote[] =
      "budget_tokens=99,sinks=3,recent_tokens=5,window=4,kernel=9,pool=max,group_reduce=sum,"
      "group_order=before,window_reduce=sum,softmax=prefix";
  for (const char* text :
       {"scorer=keep_all,encoder=f32", "budget_ratio=0.3,min_tokens=7,encoder=bf16", kVote,
        "scorer=h2o,allocator=ada,alpha=0.3,normalised=true,encoder=int4,window_encoder=bf16",
        "scorer=random,seed=4000000000,allocator=mass,mass_target=0.8,mass_min_tokens=40",
        "scorer=expected_attention,future_tokens=64,allocator=pyramid,beta=5",
        "selector=chunks,chunk_tokens=10,observe_begin=-90,observe_end=-20"}) {
    const CompressionOptions options = *ParseCompression(text);
    const auto back = CompressionFromProto(CompressionToProto(options), {});
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(FormatCompression(*back), FormatCompression(options));
  }
}

TEST(CompressionProto, FieldsThatAreNotSetKeepTheDefaults) {
  const CompressionOptions defaults = *ParseCompression("budget_ratio=0.5,kernel=7");
  v1::CompressionOptions message;
  message.set_window(16);
  const CompressionOptions options = *CompressionFromProto(message, defaults);
  EXPECT_EQ(options.kernel, 7u);
  EXPECT_EQ(options.window, 16u);
  EXPECT_EQ(options.budget_ratio, 0.5);
}

TEST(CompressionProto, ABudgetInTokensReplacesADefaultRatio) {
  v1::CompressionOptions message;
  message.set_budget_tokens(100);
  const auto options = CompressionFromProto(message, *ParseCompression("budget_ratio=0.5"));
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->budget_ratio, 0);
  EXPECT_EQ(options->budget_tokens, 100u);
}

TEST(CompressionProto, AWrongFieldIsNamed) {
  v1::CompressionOptions message;
  message.set_pool("median");
  const absl::Status status = CompressionFromProto(message, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(FieldOf(status), "compression.pool");
  EXPECT_THAT(std::string(status.message()), HasSubstr("median"));
}

TEST(CompressionProto, ARatioThatIsNoNumberIsRefused) {
  v1::CompressionOptions message;
  message.set_budget_ratio(std::nan(""));
  EXPECT_EQ(FieldOf(CompressionFromProto(message, {}).status()), "compression.budget_ratio");
}

TEST(CompressionProto, OptionsThatDoNotGoTogetherAreRefused) {
  v1::CompressionOptions message;
  message.set_budget_tokens(8);
  const absl::Status status = CompressionFromProto(message, {}).status();
  EXPECT_EQ(FieldOf(status), "compression.budget_tokens");
  EXPECT_THAT(std::string(status.message()), HasSubstr("budget_tokens is '8'"));
  message.set_scorer("tova");
  message.set_observe_begin(1);
  EXPECT_EQ(FieldOf(CompressionFromProto(message, {}).status()), "compression");
}

TEST(CompressionText, SetsOnlyWhatItNames) {
  const auto message = CompressionFromText("scorer=snapkv, budget_ratio=0.25,kernel=7,pool=max");
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->scorer(), "snapkv");
  EXPECT_EQ(message->budget_ratio(), 0.25);
  EXPECT_EQ(message->kernel(), 7u);
  EXPECT_EQ(message->pool(), "max");
  EXPECT_FALSE(message->has_window());
  EXPECT_FALSE(message->has_budget_tokens());
  EXPECT_EQ(CompressionFromText("")->ByteSizeLong(), 0u);
}

TEST(CompressionText, WhatIsWrongIsRefused) {
  for (const char* text : {"scorer=best", "window", "window=x", "unknown=1", "kernel=-1",
                           "window=3,window=4", "budget_tokens=3,budget_ratio=0.5",
                           "observe_begin=-9223372036854775808", "observe_end=1073741825"}) {
    EXPECT_EQ(CompressionFromText(text).status().code(), absl::StatusCode::kInvalidArgument)
        << text;
  }
}

TEST(SamplingProto, RoundTripKeepsEveryOption) {
  const SamplingOptions options = {.temperature = 0.7,
                                   .top_p = 0.9,
                                   .top_k = 40,
                                   .min_p = 0.05,
                                   .seed = 1u << 31,
                                   .presence_penalty = 1.5,
                                   .frequency_penalty = -0.5,
                                   .repetition_penalty = 1.05,
                                   .logit_bias = {{7, -100.0f}, {99, 2.5f}}};
  const SamplingOptions back = *SamplingFromProto(SamplingToProto(options), 100);
  EXPECT_EQ(back.temperature, options.temperature);
  EXPECT_EQ(back.top_p, options.top_p);
  EXPECT_EQ(back.top_k, options.top_k);
  EXPECT_EQ(back.min_p, options.min_p);
  EXPECT_EQ(back.seed, options.seed);
  EXPECT_EQ(back.presence_penalty, options.presence_penalty);
  EXPECT_EQ(back.frequency_penalty, options.frequency_penalty);
  EXPECT_EQ(back.repetition_penalty, options.repetition_penalty);
  EXPECT_THAT(back.logit_bias, UnorderedElementsAreArray(options.logit_bias));
}

TEST(SamplingProto, WrongValuesAreRefused) {
  v1::SamplingOptions message;
  message.set_temperature(std::nan(""));
  EXPECT_EQ(FieldOf(SamplingFromProto(message, 100).status()), "sampling");
  message.Clear();
  for (const uint32_t token : {100u, UINT32_MAX}) {
    (*message.mutable_logit_bias())[token] = 1;
    const absl::Status status = SamplingFromProto(message, 100).status();
    EXPECT_EQ(FieldOf(status), "sampling.logit_bias");
    EXPECT_EQ(status.message(), absl::StrCat("sampling.logit_bias is for the token ", token,
                                             "; wanted ids below the vocabulary's 100"));
    message.clear_logit_bias();
  }
  EXPECT_EQ(FieldOf(CheckLogprobs(21)), "logprobs");
  EXPECT_TRUE(CheckLogprobs(20).ok());
}

TEST(SamplingProto, OutputTokensKeepTheirLogprobs) {
  const OutputToken token = {.token = 5, .logprob = -0.5f, .top = {{5, -0.5f}, {7, -1.5f}}};
  const OutputToken back = OutputTokenFromProto(OutputTokenToProto(token));
  EXPECT_EQ(back.token, 5);
  EXPECT_EQ(back.logprob, -0.5f);
  ASSERT_EQ(back.top.size(), 2u);
  EXPECT_EQ(back.top[1].token, 7);
  EXPECT_EQ(back.top[1].logprob, -1.5f);
}

TEST(PlanProto, EqualPlansAgreeAndAnyDifferenceIsNamed) {
  const KvPlan plan = *MakePlan(*ParseCompression("budget_tokens=64"), kShape, 500);
  EXPECT_TRUE(CheckPlan(PlanToProto(plan), plan).ok());
  v1::KvPlan heads = PlanToProto(plan);
  heads.set_num_heads(4);
  v1::KvPlan layers = PlanToProto(plan);
  layers.mutable_layer_tokens()->RemoveLast();
  v1::KvPlan tokens = PlanToProto(plan);
  tokens.set_layer_tokens(1, 7);
  v1::KvPlan bytes = PlanToProto(plan);
  bytes.set_wire_bytes(1);
  for (const auto& [theirs, what] :
       {std::pair(heads, "num_heads 4"), std::pair(layers, "layers"),
        std::pair(tokens, "layer_tokens of layer 1: 7"), std::pair(bytes, "wire_bytes 1")}) {
    const absl::Status status = CheckPlan(theirs, plan);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(ReasonOf(status), kPlanMismatch);
    EXPECT_THAT(std::string(status.message()), HasSubstr(what));
  }
}

TEST(ManifestProto, RoundTripKeepsAll) {
  KvManifest manifest = {
      .prompt_tokens = 9, .next_position = 9, .num_frames = 3, .total_bytes = size_t{5} << 32};
  manifest.digest[7] = std::byte{42};
  v1::PrefillManifest message;
  ManifestToProto(manifest, &message);
  EXPECT_EQ(*ManifestFromProto(message), manifest);
  message.mutable_digest()->pop_back();
  EXPECT_EQ(ManifestFromProto(message).status().code(), absl::StatusCode::kDataLoss);
}

TEST(LayerHeaderProto, RoundTripKeepsAll) {
  const LayerHeader header = {.layer = 2,
                              .kept_tokens = {3, 4},
                              .retained_mass = {0.5f, 1.0f},
                              .chosen_mass = {0.25f, 0.5f},
                              .num_bytes = 100};
  const LayerHeader back = LayerHeaderFromProto(LayerHeaderToProto(header));
  EXPECT_EQ(back.layer, 2u);
  EXPECT_EQ(back.kept_tokens, header.kept_tokens);
  EXPECT_EQ(back.retained_mass, header.retained_mass);
  EXPECT_EQ(back.chosen_mass, header.chosen_mass);
  EXPECT_EQ(back.num_bytes, 100u);
}

TEST(ModelIdentity, DependsOnWeightsAndTokenizer) {
  Sha256Digest a = {};
  Sha256Digest b = {};
  b[0] = std::byte{1};
  EXPECT_NE(CombinedIdentity(a, b), CombinedIdentity(b, a));
  const Sha256Digest ours = CombinedIdentity(a, b);
  const std::string same(reinterpret_cast<const char*>(ours.data()), ours.size());
  EXPECT_TRUE(CheckModelIdentity(same, ours).ok());
  for (const std::string& other : {same.substr(1), std::string(), std::string(1 << 20, 'x')}) {
    const absl::Status status = CheckModelIdentity(other, ours);
    EXPECT_EQ(ReasonOf(status), kModelMismatch);
    EXPECT_LT(status.message().size(), 500u);
  }
}

TEST(RequestId, IsHexadecimalAndAnotherEachTime) {
  const std::string id = NewRequestId();
  EXPECT_THAT(id, MatchesRegex("[0-9a-f]{32}"));
  EXPECT_NE(NewRequestId(), id);
}

TEST(WireVersion, MinorsFromTheOldestOnAreUnderstood) {
  v1::WireVersion version = WireVersionProto();
  EXPECT_TRUE(CheckWireVersion(version).ok());
  version.set_minor(kOldestWireMinor);
  EXPECT_TRUE(CheckWireVersion(version).ok());
  version.set_minor(kOldestWireMinor - 1);
  EXPECT_EQ(ReasonOf(CheckWireVersion(version)), kWireVersionMismatch);
  version.set_minor(UINT32_MAX);
  EXPECT_TRUE(CheckWireVersion(version).ok());
}

TEST(WireVersion, AnotherMajorIsRefusedWithAReason) {
  for (uint32_t major : {kWireMajor - 1, kWireMajor + 1}) {
    v1::WireVersion version = WireVersionProto();
    version.set_major(major);
    EXPECT_EQ(ReasonOf(CheckWireVersion(version)), kWireVersionMismatch);
  }
}

TEST(Errors, DetailsStandSideBySide) {
  const absl::Status status =
      WithRetryDelay(WithField(absl::ResourceExhaustedError("full"), "tokens"), absl::Seconds(2.5));
  EXPECT_EQ(FieldOf(status), "tokens");
  EXPECT_EQ(RetryDelayOf(status), absl::Seconds(2.5));
  EXPECT_EQ(ReasonOf(status), "");
}

TEST(Errors, AProxysReasonIsNoneOfOurs) {
  google::rpc::ErrorInfo info;
  info.set_reason(kModelMismatch);
  info.set_domain("proxy.example");
  absl::Status status = WithReason(absl::UnavailableError("overloaded"), kModelMismatch);
  EXPECT_EQ(ReasonOf(status), kModelMismatch);
  status.SetPayload("type.googleapis.com/google.rpc.ErrorInfo",
                    absl::Cord(info.SerializeAsString()));
  EXPECT_EQ(ReasonOf(status), "");
}

// gRPC's trailers hold 8 KiB by default, the status' own message among them.
TEST(Errors, ALongValueMakesNoLongDetails) {
  std::string umlauts;
  while (umlauts.size() < 6000) umlauts += "\xc3\xbc";
  for (const std::string& value : {std::string(6000, 'x'), umlauts, std::string(6000, '\xff')}) {
    const absl::Status status = WrongField("role", value, "user");
    EXPECT_EQ(FieldOf(status), "role");
    status.ForEachPayload(
        [](absl::string_view, const absl::Cord& detail) { EXPECT_LT(detail.size(), 600u); });
  }
}

TEST(Errors, OkCarriesNoDetails) {
  EXPECT_EQ(WithField(absl::OkStatus(), "x"), absl::OkStatus());
  EXPECT_FALSE(RetryDelayOf(absl::OkStatus()).has_value());
}

}  // namespace
}  // namespace kvship
