// What happens when processes are ended, killed or started wrongly.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <signal.h>
#include <sys/stat.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/generation_client.h"
#include "tests/e2e/processes.h"
#include "tests/e2e/stream.h"
#include "tests/e2e/tiny_request.h"
#include "tests/temp_folder.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

constexpr char kModel[] = KVSHIP_GOLDENS "/models/llama";

absl::Status Ask(const Server& decode, const v1::GenerateRequest& request,
                 const GenerationClient::Options& options = {}) {
  GenerationClient client(decode.address(), options);
  return client.Generate(request, absl::Seconds(60), [](const auto&) {}).status();
}

bool PoolIsEmpty(const Server& decode) {
  return Eventually([&] { return decode.metric("kvship_decode_pool_reserved_bytes") == 0; },
                    absl::Seconds(5));
}

std::unique_ptr<Server> Prefill() {
  auto server =
      std::make_unique<Server>("kvship-prefill", kModel, std::vector<std::string>{"--threads=1"});
  EXPECT_TRUE(server->WaitUntilReady()) << server->process.Errors();
  return server;
}

std::unique_ptr<Server> Decode(const std::string& prefill, std::vector<std::string> flags = {}) {
  flags.insert(flags.end(), {"--threads=1", absl::StrCat("--prefill=", prefill)});
  auto server = std::make_unique<Server>("kvship-decode", kModel, flags);
  EXPECT_TRUE(server->WaitUntilReady()) << server->process.Errors();
  return server;
}

TEST(FailuresTest, StopWhileLoadingEndsTheServerAtOnce) {
  // A model that never ends: nobody writes into this pipe.
  const TempFolder folder;
  const std::string pipe = folder.path() + "/pipe.gguf";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  for (const char* program : {"kvship-prefill", "kvship-decode"}) {
    Server server(program, pipe);
    ASSERT_TRUE(Eventually([&] {
      return server.process.Errors().find("loading " + pipe) != std::string::npos;
    })) << server.process.Errors();
    server.process.Signal(SIGTERM);
    EXPECT_EQ(server.process.Wait(absl::Seconds(5)), 0) << server.process.Errors();
  }
}

TEST(FailuresTest, KilledPrefillNodeMeansUnavailableAndItsReturnIsNoticed) {
  auto prefill = Prefill();
  const auto decode = Decode(absl::StrCat("dns:///", prefill->address()));
  ASSERT_TRUE(Ask(*decode, TinyRequest(50, 5)).ok());
  prefill->process.Signal(SIGSTOP);
  absl::Status status;
  std::thread reader([&] { status = Ask(*decode, TinyRequest(50, 5)); });
  absl::SleepFor(absl::Milliseconds(300));
  prefill->process.Signal(SIGKILL);
  reader.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("prefill node"));
  EXPECT_TRUE(PoolIsEmpty(*decode));
  EXPECT_EQ(Ask(*decode, TinyRequest(50, 5)).code(), absl::StatusCode::kUnavailable);

  const Process again("kvship-prefill", {absl::StrCat("--model=", kModel), "--threads=1",
                                         absl::StrCat("--listen=", prefill->address()),
                                         absl::StrCat("--admin=127.0.0.1:", FreePort())});
  EXPECT_TRUE(Eventually([&] { return Ask(*decode, TinyRequest(50, 5)).ok(); })) << again.Errors();
}

TEST(FailuresTest, LostPrefillNodeIsReplacedByAnother) {
  const auto stopped = Prefill();
  const auto alive = Prefill();
  const auto decode = Decode(absl::StrCat(stopped->address(), ",", alive->address()));
  // Both must have been seen healthy before one of them falls silent.
  ASSERT_TRUE(Eventually([&] { return decode->num_serving_nodes() == 2; }));
  stopped->process.Signal(SIGSTOP);
  std::vector<std::thread> readers;
  std::vector<absl::Status> statuses(6);
  for (absl::Status& status : statuses) {
    // The decode node itself asks another.
    readers.emplace_back([&] { status = Ask(*decode, TinyRequest(50, 5), {.retries = 0}); });
  }
  absl::SleepFor(absl::Milliseconds(300));
  stopped->process.Signal(SIGKILL);
  for (std::thread& reader : readers) reader.join();
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
  EXPECT_GT(decode->metric("kvship_decode_prefill_retries_total{reason=\"lost\"}"), 0);
  EXPECT_TRUE(PoolIsEmpty(*decode));
}

TEST(FailuresTest, FullPrefillNodeIsReplacedByAnother) {
  Server small("kvship-prefill", kModel, {"--threads=1", "--max_queue_requests=1"});
  ASSERT_TRUE(small.WaitUntilReady()) << small.process.Errors();
  const auto large = Prefill();
  const auto decode = Decode(absl::StrCat(small.address(), ",", large->address()));
  std::vector<std::thread> readers;
  std::atomic<bool> stop{false};
  for (int i = 0; i < 6; ++i) {
    readers.emplace_back([&] {
      GenerationClient client(decode->address(), {.retries = 0});
      while (!stop) {
        const auto report =
            client.Generate(TinyRequest(1500, 2), absl::Seconds(60), [](const auto&) {});
        EXPECT_TRUE(report.ok()) << report.status();
      }
    });
  }
  EXPECT_TRUE(Eventually([&decode] {
    return decode->metric("kvship_decode_prefill_retries_total{reason=\"full\"}") > 0;
  }));
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(decode->metric("kvship_decode_prefill_ejections_total"), 0);
}

TEST(FailuresTest, NodeThatGivesARequestUpIsReplacedByAnother) {
  Server hasty("kvship-prefill", kModel, {"--threads=1", "--go_timeout=1us"});
  ASSERT_TRUE(hasty.WaitUntilReady()) << hasty.process.Errors();
  const auto patient = Prefill();
  const auto decode = Decode(absl::StrCat(hasty.address(), ",", patient->address()));
  EXPECT_TRUE(Eventually([&decode] {
    EXPECT_TRUE(Ask(*decode, TinyRequest(50, 2)).ok());
    return decode->metric("kvship_decode_prefill_retries_total{reason=\"gave_up\"}") > 0;
  }));
  EXPECT_EQ(decode->metric("kvship_decode_prefill_ejections_total"), 0);
}

TEST(FailuresTest, ClientThatGoesFreesItsPages) {
  const auto prefill = Prefill();
  const auto decode = Decode(prefill->address(), {"--max_unread_tokens=4"});
  {
    v1::GenerateRequest request = TinyRequest(20, 2000);
    request.set_logprobs(20);  // much to be read
    const Stream unread(*decode, request, {.reads = false});
    EXPECT_TRUE(Eventually([&] { return decode->metric("kvship_decode_sessions") == 1; }));
    EXPECT_GT(decode->metric("kvship_decode_pool_reserved_bytes"), 0);
  }
  EXPECT_TRUE(
      Eventually([&] { return decode->metric("kvship_decode_waiting_prompt_tokens") == 0; }));
  EXPECT_TRUE(PoolIsEmpty(*decode));
}

TEST(FailuresTest, AnotherModelOnThePrefillNodeIsUnavailableAndSaidOnce) {
  const auto prefill = Prefill();
  Server decode("kvship-decode", KVSHIP_GOLDENS "/models/llama3_rope",
                {absl::StrCat("--prefill=", prefill->address())});
  absl::Status status;
  EXPECT_TRUE(Eventually([&] {
    status = Ask(decode, TinyRequest(50, 5));
    return absl::StrContains(status.message(), "same model");
  })) << status;
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  httplib::Client admin("127.0.0.1", decode.admin_port);
  const httplib::Result ready = admin.Get("/readyz");
  ASSERT_TRUE(ready);
  EXPECT_EQ(ready->status, 503);
  EXPECT_THAT(ready->body, HasSubstr("same model"));
  // It is asked twice a second.
  absl::SleepFor(absl::Milliseconds(1200));
  const std::string line = absl::StrCat("prefill node ", prefill->address(), ": the peer's");
  EXPECT_EQ(std::vector<std::string>(absl::StrSplit(decode.process.Errors(), line)).size(), 2u)
      << decode.process.Errors();
}

TEST(FailuresTest, PortInUseAndDamagedModelsAreOneSentenceAndExitCodeOne) {
  const auto prefill = Prefill();
  Process taken("kvship-decode",
                {absl::StrCat("--model=", kModel), absl::StrCat("--listen=", prefill->address()),
                 absl::StrCat("--admin=127.0.0.1:", FreePort())});
  EXPECT_EQ(taken.Wait(), 1);
  EXPECT_THAT(taken.Errors(), HasSubstr(absl::StrCat(prefill->port)));

  const TempFolder folder;
  const std::string damaged =
      folder.Write("damaged.gguf", "GGUF and then nothing that makes sense");
  Process broken("kvship-decode", {"--model=" + damaged, absl::StrCat("--listen=127.0.0.1:0"),
                                   "--admin=127.0.0.1:0"});
  EXPECT_EQ(broken.Wait(), 1);
  EXPECT_THAT(broken.Errors(), HasSubstr(damaged));

  Process missing("kvship-decode", {"--model=/no/such/model"});
  EXPECT_EQ(missing.Wait(), 1);
  EXPECT_THAT(missing.Errors(), HasSubstr("/no/such/model"));
}

TEST(FailuresTest, ClientSaysWhatIsWrongAndExitsWithOne) {
  const std::string nowhere = absl::StrCat("127.0.0.1:", FreePort());
  Process unreachable("kvship", {"generate", "--server=" + nowhere, "--prompt=x"});
  EXPECT_EQ(unreachable.Wait(), 1);
  EXPECT_THAT(unreachable.Errors(), HasSubstr(nowhere + " cannot be reached"));

  const auto prefill = Prefill();
  const auto decode = Decode(prefill->address());
  Process refused("kvship", {"generate", "--server=" + decode->address(), "--prompt=x"});
  EXPECT_EQ(refused.Wait(), 1);
  EXPECT_THAT(refused.Errors(), HasSubstr("no tokenizer"));
  EXPECT_EQ(refused.Output(), "");

  Process elsewhere("kvship", {"generate", "--server=" + prefill->address(), "--prompt=x"});
  EXPECT_EQ(elsewhere.Wait(), 1);
  EXPECT_THAT(elsewhere.Errors(), HasSubstr("wanted a decode node's address"));

  decode->process.Signal(SIGSTOP);
  Process impatient("kvship", {"models", "--server=" + decode->address(), "--timeout=100ms"});
  EXPECT_EQ(impatient.Wait(), 1);
  EXPECT_THAT(impatient.Errors(), HasSubstr("the timeout of 100ms has passed"));
  decode->process.Signal(SIGCONT);
}

}  // namespace
}  // namespace kvship
