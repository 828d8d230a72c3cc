// What a request gives through two real processes: the same as in one process, token by token.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "client/generation_client.h"
#include "kvship/v1/generation.grpc.pb.h"
#include "rpc/compression.h"
#include "rpc/request_id.h"
#include "tests/e2e/processes.h"
#include "tests/needed.h"
#include "tests/random_prompt.h"
#include "tests/temp_folder.h"
#include "tools/local_run.h"

namespace kvship {
namespace {

using nlohmann::json;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

// Nothing is left to a server's defaults, which one process does not have.
constexpr char kRest[] = ",min_tokens=0,group_reduce=mean";
const std::string kKeepAll = "scorer=keep_all,encoder=f16";
const std::string kLeast = "budget_ratio=0.1,min_tokens=48,window=16,encoder=f16,group_reduce=mean";
const std::string kBudget = absl::StrCat("budget_tokens=48,window=16,kernel=7,encoder=f16", kRest);

v1::GenerateRequest RequestOf(const std::vector<int32_t>& tokens, const std::string& compression,
                              uint32_t max_tokens) {
  v1::GenerateRequest request;
  request.mutable_tokens()->mutable_ids()->Add(tokens.begin(), tokens.end());
  *request.mutable_compression() = *CompressionFromText(compression);
  request.set_max_tokens(max_tokens);
  return request;
}

struct Answer {
  absl::Status status;
  std::vector<int32_t> tokens;
  std::string text;
  v1::GenerateReport report;
};

Answer Ask(const std::string& address, const v1::GenerateRequest& request,
           absl::Duration timeout = absl::Seconds(60)) {
  GenerationClient client(address);
  Answer answer;
  const auto report =
      client.Generate(request, timeout, [&answer](const v1::GenerateResponse& response) {
        answer.text += response.output().text();
        for (const auto& token : response.output().tokens()) {
          answer.tokens.push_back(static_cast<int32_t>(token.token_id()));
        }
      });
  answer.status = report.status();
  if (report.ok()) answer.report = *report;
  return answer;
}

struct TwoProcesses {
  explicit TwoProcesses(const std::string& model, std::vector<std::string> decode_flags = {})
      : prefill("kvship-prefill", model, {"--threads=2"}),
        decode("kvship-decode", model, WithPrefill(std::move(decode_flags))) {
    EXPECT_TRUE(prefill.WaitUntilReady()) << prefill.process.Errors();
    EXPECT_TRUE(decode.WaitUntilReady()) << decode.process.Errors();
  }
  std::vector<std::string> WithPrefill(std::vector<std::string> flags) const {
    flags.push_back(absl::StrCat("--prefill=dns:///", prefill.address()));
    flags.push_back("--threads=2");
    return flags;
  }

  Server prefill;
  Server decode;
};

std::vector<int32_t> OneProcess(const std::string& model_path, const std::vector<int32_t>& tokens,
                                const std::string& compression, size_t max_tokens) {
  const auto model = *LoadTransformer(model_path);
  LocalRun run(*model, {.num_threads = 2});
  auto prefilled = *run.Prefill(tokens, *ParseCompression(compression), max_tokens);
  return *run.Generate(prefilled, max_tokens, /*stop_at_end=*/true);
}

class GoldenModelTest : public ::testing::TestWithParam<const char*> {};

TEST_P(GoldenModelTest, TwoProcessesGiveTheTokensOfOne) {
  const std::string model = absl::StrCat(KVSHIP_GOLDENS "/models/", GetParam());
  TwoProcesses processes(model);
  for (const std::string& compression : {kKeepAll, kBudget, kLeast}) {
    for (size_t prompt_tokens : {1, 33, 300}) {
      const auto prompt = RandomPrompt(prompt_tokens, 5, 256);
      const Answer answer = Ask(processes.decode.address(), RequestOf(prompt, compression, 40));
      ASSERT_TRUE(answer.status.ok()) << answer.status;
      EXPECT_THAT(answer.tokens, ElementsAreArray(OneProcess(model, prompt, compression, 40)));
      EXPECT_EQ(answer.report.usage().prompt_tokens(), prompt_tokens);
      EXPECT_EQ(answer.report.usage().output_tokens(), answer.tokens.size());
    }
  }
  EXPECT_EQ(processes.decode.metric("kvship_decode_pool_reserved_bytes"), 0);
}

TEST(PolicyTest, EveryPolicyGivesTheTokensOfOneProcess) {
  const std::string model = KVSHIP_GOLDENS "/models/llama";
  TwoProcesses processes(model);
  const auto prompt = RandomPrompt(300, 7, 256);
  for (const char* policy :
       {"scorer=h2o", "scorer=tova", "scorer=streaming_llm", "scorer=knorm", "scorer=keydiff",
        "scorer=expected_attention,future_tokens=64", "scorer=random,seed=3", "allocator=pyramid",
        "allocator=ada", "allocator=mass,mass_target=0.6", "selector=chunks,chunk_tokens=10",
        "group_reduce=none", "encoder=fp8", "encoder=fp8,window_encoder=f32",
        "observe_begin=-60,observe_end=-40"}) {
    const std::string compression = FormatCompression(*ParseCompression(
        policy, *ParseCompression("budget_tokens=80,window=16,kernel=7,encoder=f16")));
    v1::GenerateRequest request = RequestOf(prompt, compression, 20);
    request.set_report_heads(true);
    const Answer answer = Ask(processes.decode.address(), request);
    ASSERT_TRUE(answer.status.ok()) << policy << ": " << answer.status;
    EXPECT_THAT(answer.tokens, ElementsAreArray(OneProcess(model, prompt, compression, 20)))
        << policy;
    const v1::KvReport& kv = answer.report.kv();
    EXPECT_GT(kv.retained_mass_min(), 0) << policy;
    EXPECT_LE(kv.kept_tokens(), 80) << policy;
    double kept = 0;
    double heads = 0;
    for (const v1::LayerReport& layer : kv.layers()) {
      for (uint32_t tokens : layer.kept_tokens()) kept += tokens;
      heads += layer.kept_tokens_size();
    }
    EXPECT_DOUBLE_EQ(kv.kept_tokens(), kept / heads) << policy;
  }
  EXPECT_EQ(processes.decode.metric("kvship_decode_pool_reserved_bytes"), 0);
}

INSTANTIATE_TEST_SUITE_P(TinyModels, GoldenModelTest,
                         ::testing::Values("llama", "llama3_rope", "llama_bf16_tied", "mistral",
                                           "qwen2", "qwen3", "mixtral", "qwen3moe"),
                         [](const auto& info) { return std::string(info.param); });

TEST(DemoModelTest, TwoProcessesGiveTheTokensOfOne) {
  if (IsMissing(KVSHIP_DEMO_MODEL)) GTEST_SKIP() << "no " << KVSHIP_DEMO_MODEL;
  TwoProcesses processes(KVSHIP_DEMO_MODEL);
  const auto prompt = RandomPrompt(400, 6, 40000);
  const std::string budget = absl::StrCat("budget_tokens=128,window=16,kernel=31", kRest);
  for (const std::string& compression :
       {kKeepAll, budget + ",encoder=f16", budget + ",encoder=int4",
        budget + ",encoder=int8,window_encoder=f16,allocator=mass,mass_target=0.7"}) {
    const Answer answer = Ask(processes.decode.address(), RequestOf(prompt, compression, 12));
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_THAT(answer.tokens,
                ElementsAreArray(OneProcess(KVSHIP_DEMO_MODEL, prompt, compression, 12)));
  }
  EXPECT_EQ(processes.decode.metric("kvship_decode_pool_reserved_bytes"), 0);
}

TEST(DemoModelTest, CommandLineStreamsTextAndWritesTheRecord) {
  if (IsMissing(KVSHIP_DEMO_MODEL)) GTEST_SKIP() << "no " << KVSHIP_DEMO_MODEL;
  TwoProcesses processes(KVSHIP_DEMO_MODEL);
  const TempFolder folder;
  const std::string record_path = folder.path() + "/record";
  Process client("kvship", {"generate", "--server", processes.decode.address(), "--chat",
                            "--prompt=Name the capital of France.", "--max-tokens=24",
                            "--report-file=" + record_path, "--progress", "--report"});
  ASSERT_EQ(client.Wait(), 0) << client.Errors();
  const json record = json::parse(std::ifstream(record_path));
  EXPECT_EQ(record["text"].get<std::string>() + "\n", client.Output());
  EXPECT_THAT(client.Output(), HasSubstr("Paris"));
  EXPECT_EQ(record["usage"]["output_tokens"], record["tokens"].size());
  EXPECT_GT(record["timing"]["first_token_ms"].get<double>(), 0);
  EXPECT_EQ(record["kv"]["compression"]["scorer"], "snapkv");
  EXPECT_THAT(client.Errors(), HasSubstr("reading the prompt of"));
  EXPECT_THAT(client.Errors(), HasSubstr("retained mass"));
}

// The lines that a server has logged in JSON with this message.
std::vector<json> LoggedLines(const Server& server, const std::string& message) {
  std::vector<json> lines;
  std::istringstream errors(server.process.Errors());
  for (std::string line; std::getline(errors, line);) {
    json object = json::parse(line);
    if (object["message"] == message) lines.push_back(std::move(object));
  }
  return lines;
}

TEST(GenerateTest, BothServersLogTheEndOfARequestUnderTheIdThatTheClientGets) {
  Server prefill("kvship-prefill", KVSHIP_GOLDENS "/models/llama", {"--log_format=json"});
  Server decode("kvship-decode", KVSHIP_GOLDENS "/models/llama",
                {"--log_format=json", absl::StrCat("--prefill=", prefill.address())});
  ASSERT_TRUE(prefill.WaitUntilReady() && decode.WaitUntilReady());
  grpc::ClientContext context;
  const auto stub = v1::GenerationService::NewStub(
      grpc::CreateChannel(decode.address(), grpc::InsecureChannelCredentials()));
  const auto reader = stub->Generate(&context, RequestOf(RandomPrompt(300, 7, 256), kBudget, 5));
  v1::GenerateResponse response;
  while (reader->Read(&response)) continue;
  ASSERT_TRUE(reader->Finish().ok());
  const auto id = context.GetServerInitialMetadata().find(kRequestIdMetadata);
  ASSERT_NE(id, context.GetServerInitialMetadata().end());
  for (const Server* server : {&prefill, &decode}) {
    ASSERT_TRUE(Eventually([&] { return LoggedLines(*server, "request ended").size() == 1; }));
    const json line = LoggedLines(*server, "request ended")[0];
    EXPECT_EQ(line["request_id"], std::string(id->second.data(), id->second.size()));
    EXPECT_EQ(line["code"], "OK");
    EXPECT_EQ(line["prompt_tokens"], 300);
    EXPECT_EQ(line["kept_tokens"], 48);
    EXPECT_EQ(line["shipped_bytes"], response.report().kv().shipped_bytes());
    EXPECT_EQ(line["uncompressed_bytes"], response.report().kv().uncompressed_bytes());
    EXPECT_GT(line["prefill_ms"], 0);
    EXPECT_GE(line["total_ms"], line["prefill_ms"]);
  }
}

TEST(GenerateTest, ManyAtOnceGiveEachItsOwnTokens) {
  const std::string model = KVSHIP_GOLDENS "/models/llama";
  TwoProcesses processes(model);
  constexpr size_t kRequests = 12;
  std::vector<Answer> answers(kRequests);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kRequests; ++i) {
    threads.emplace_back([&, i] {
      answers[i] = Ask(processes.decode.address(),
                       RequestOf(RandomPrompt(40 + 30 * i, i, 320), kBudget, 30));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < kRequests; ++i) {
    ASSERT_TRUE(answers[i].status.ok()) << answers[i].status;
    EXPECT_THAT(answers[i].tokens, ElementsAreArray(OneProcess(
                                       model, RandomPrompt(40 + 30 * i, i, 320), kBudget, 30)));
  }
  EXPECT_EQ(processes.decode.metric("kvship_decode_pool_reserved_bytes"), 0);
}

TEST(GenerateTest, SmallPoolServesRequestsOneAfterTheOther) {
  const std::string model = KVSHIP_GOLDENS "/models/llama";
  // Two slabs: one prompt of 1500 tokens at a time.
  TwoProcesses processes(model, {"--pool_bytes=524288"});
  std::vector<Answer> answers(4);
  std::vector<std::thread> threads;
  for (Answer& answer : answers) {
    threads.emplace_back([&] {
      answer = Ask(processes.decode.address(), RequestOf(RandomPrompt(1500, 1, 320), kKeepAll, 20));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Answer& answer : answers) EXPECT_TRUE(answer.status.ok()) << answer.status;
  const Answer refused =
      Ask(processes.decode.address(), RequestOf(RandomPrompt(2000, 1, 320), kKeepAll, 48));
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status.message()), HasSubstr("whole pool"));
  EXPECT_EQ(processes.decode.metric("kvship_decode_pool_reserved_bytes"), 0);
}

TEST(GenerateTest, WrongRequestsAreRefusedAndTheServersLiveOn) {
  TwoProcesses processes(KVSHIP_GOLDENS "/models/llama", {"--max_message_bytes=100000"});
  const std::string address = processes.decode.address();
  const auto prompt = RandomPrompt(50, 2, 320);
  const v1::GenerateRequest right = RequestOf(prompt, kKeepAll, 5);

  v1::GenerateRequest outside = right;
  outside.mutable_tokens()->add_ids(320);
  EXPECT_THAT(std::string(Ask(address, outside).status.message()),
              HasSubstr("tokens.ids[50] is 320"));

  v1::GenerateRequest negative = right;
  negative.mutable_sampling()->set_temperature(-1);
  EXPECT_EQ(Ask(address, negative).status.code(), absl::StatusCode::kInvalidArgument);

  v1::GenerateRequest text = right;
  text.set_prompt("text");
  const Answer no_tokenizer = Ask(address, text);
  EXPECT_EQ(no_tokenizer.status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(no_tokenizer.status.message()), HasSubstr("no tokenizer"));

  const Answer huge = Ask(address, RequestOf(RandomPrompt(100000, 1, 320), kKeepAll, 5));
  EXPECT_EQ(huge.status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(huge.status.message()), HasSubstr("too large"));

  const Answer late = Ask(address, right, absl::Milliseconds(-1));
  EXPECT_EQ(late.status.code(), absl::StatusCode::kDeadlineExceeded);

  EXPECT_TRUE(Ask(address, right).status.ok());
  EXPECT_EQ(processes.decode.metric("kvship_decode_pool_reserved_bytes"), 0);
}

}  // namespace
}  // namespace kvship
