// Prompts that begin alike, through real processes with the demo model: what a prefill node kept is
// not read again, and the answer is the same.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "client/generation_client.h"
#include "kv/prefix_digests.h"
#include "rpc/compression.h"
#include "tests/e2e/processes.h"
#include "tests/needed.h"

namespace kvship {
namespace {

constexpr size_t kTextTokens = 1100;
constexpr size_t kTextBlocks = kTextTokens / kPrefixBlockTokens;

// A text that is the same for all, and a question.
v1::GenerateRequest Question(uint64_t question, const char* compression) {
  v1::GenerateRequest request;
  for (size_t i = 0; i < kTextTokens + 60; ++i) {
    const uint64_t seed = i < kTextTokens ? 0 : question;
    request.mutable_tokens()->add_ids(static_cast<uint32_t>(RandomBits(seed, i) % 40'000));
  }
  *request.mutable_compression() = *CompressionFromText(compression);
  request.set_max_tokens(8);
  request.set_ignore_end_tokens(true);
  request.set_report_heads(true);
  return request;
}

struct Answer {
  std::vector<uint32_t> tokens;
  v1::GenerateReport report;
};

Answer Ask(const Server& decode, const v1::GenerateRequest& request) {
  Answer answer;
  const auto report =
      GenerationClient(decode.address())
          .Generate(request, absl::Minutes(2), [&](const v1::GenerateResponse& response) {
            for (const auto& token : response.output().tokens()) {
              answer.tokens.push_back(token.token_id());
            }
          });
  EXPECT_TRUE(report.ok()) << report.status();
  if (report.ok()) answer.report = *report;
  return answer;
}

bool NothingIsToBeRead(const Server& decode) {
  const auto status = nlohmann::json::parse(HttpGet(decode.admin_port, "/status.json"));
  const auto& nodes = status.at("prefill_nodes");
  return std::all_of(nodes.begin(), nodes.end(),
                     [](const auto& node) { return node.at("load_tokens") == 0; });
}

class PrefixTest : public ::testing::Test {
 protected:
  static Server Decode(const std::string& prefill) {
    return Server("kvship-decode", KVSHIP_DEMO_MODEL,
                  {absl::StrCat("--prefill=", prefill), "--threads=1"});
  }
};

TEST_F(PrefixTest, QuestionsAboutATextReadItOnce) {
  if (IsMissing(KVSHIP_DEMO_MODEL)) GTEST_SKIP() << "no " << KVSHIP_DEMO_MODEL;
  const Server plain("kvship-prefill", KVSHIP_DEMO_MODEL, {"--threads=1"});
  const std::vector<std::string> keeps = {"--threads=1", "--prefix_cache_bytes=100000000"};
  const Server first("kvship-prefill", KVSHIP_DEMO_MODEL, keeps);
  const Server second("kvship-prefill", KVSHIP_DEMO_MODEL, keeps);
  Server decode = Decode(absl::StrCat(first.address(), ",", second.address()));
  Server plain_decode = Decode(plain.address());
  ASSERT_TRUE(plain_decode.WaitUntilReady());
  ASSERT_TRUE(decode.WaitUntilReady());
  ASSERT_TRUE(Eventually([&] { return decode.num_serving_nodes() == 2; }, absl::Minutes(1)));

  const auto reused_of_all = [&] {
    return first.metric("kvship_prefill_reused_tokens_total") +
           second.metric("kvship_prefill_reused_tokens_total");
  };
  size_t reused = 0;
  const char* const kCompressions[] = {"budget_tokens=128,encoder=int4", "scorer=keep_all",
                                       "scorer=knorm,budget_tokens=200,encoder=f16",
                                       "scorer=h2o,budget_tokens=128,encoder=f16"};
  for (uint64_t i = 0; i < std::size(kCompressions); ++i) {
    SCOPED_TRACE(kCompressions[i]);
    // A node's word on what it has to read is half a second old.
    ASSERT_TRUE(Eventually([&] { return NothingIsToBeRead(decode); }));
    const v1::GenerateRequest request = Question(i + 1, kCompressions[i]);
    const Answer answer = Ask(decode, request), wanted = Ask(plain_decode, request);
    // H2O asks for the attention of all queries.
    const bool reuses = i > 0 && i < 3;
    EXPECT_EQ(answer.report.usage().reused_tokens(), reuses ? kTextBlocks * kPrefixBlockTokens : 0);
    reused += answer.report.usage().reused_tokens();
    EXPECT_EQ(answer.tokens, wanted.tokens);
    EXPECT_EQ(answer.report.kv().SerializeAsString(), wanted.report.kv().SerializeAsString());
    EXPECT_EQ(wanted.report.usage().reused_tokens(), 0u);
  }
  EXPECT_EQ(reused_of_all(), static_cast<double>(reused));
  EXPECT_GT(first.metric("kvship_prefill_prefix_cache_bytes") +
                second.metric("kvship_prefill_prefix_cache_bytes"),
            0);
  EXPECT_EQ(plain.metric("kvship_prefill_prefix_cache_bytes"), 0);
}

TEST_F(PrefixTest, MemoryForLessThanABlockIsRefused) {
  if (IsMissing(KVSHIP_DEMO_MODEL)) GTEST_SKIP() << "no " << KVSHIP_DEMO_MODEL;
  Process prefill("kvship-prefill",
                  {absl::StrCat("--model=", KVSHIP_DEMO_MODEL), "--listen=127.0.0.1:0",
                   "--admin=127.0.0.1:0", "--prefix_cache_bytes=1000"});
  EXPECT_EQ(prefill.Wait(), 1);
  EXPECT_NE(prefill.Errors().find("--prefix_cache_bytes 1000: wanted 0, or at least 11796480"),
            std::string::npos)
      << prefill.Errors();
}

}  // namespace
}  // namespace kvship
