// SIGTERM and the HTTP port: a pool that is restarted node by node, and answers that take too long.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <signal.h>

#include <atomic>
#include <iostream>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/e2e/stream.h"
#include "tests/e2e/tiny_request.h"
#include "tests/e2e/unread_completion.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kModel[] = KVSHIP_GOLDENS "/models/llama";
constexpr char kJson[] = "application/json";

// A decode node with its HTTP port.
struct HttpNode {
  HttpNode(const Server& prefill, const std::string& drain_timeout,
           const std::string& model_name = "tiny")
      : decode("kvship-decode", kModel,
               {"--threads=1", absl::StrCat("--prefill=", prefill.address()),
                absl::StrCat("--http=127.0.0.1:", http_port), "--served_model_name=" + model_name,
                "--drain_timeout=" + drain_timeout}) {}

  httplib::Result Post(const std::string& body) const {
    httplib::Client client("127.0.0.1", http_port);
    client.set_read_timeout(60);
    return client.Post("/v1/completions", body, kJson);
  }

  const int http_port = FreePort();
  Server decode;
};

// Clients as behind a load balancer: who is refused by one node, or finds nobody there, asks
// another at once.
class BalancedClients {
 public:
  explicit BalancedClients(std::vector<const HttpNode*> nodes) : nodes_(std::move(nodes)) {
    for (size_t i = 0; i < 4; ++i) {
      clients_.emplace_back([this, i] {
        for (size_t asked = i; !stop_; ++asked) Ask(asked);
      });
    }
  }
  ~BalancedClients() { Stop(); }
  void Stop() {
    stop_ = true;
    for (std::thread& client : clients_) client.join();
    clients_.clear();
  }
  size_t num_answered() const { return num_answered_; }
  size_t num_sent_on() const { return num_sent_on_; }
  // Ends that no client may see.
  std::vector<std::string> faults() const {
    std::lock_guard lock(mutex_);
    return faults_;
  }

 private:
  void Ask(size_t number) {
    constexpr size_t kMostTries = 4;
    std::string last;
    for (size_t i = 0; i < kMostTries; ++i) {
      const httplib::Result answer =
          nodes_[(number + i) % nodes_.size()]->Post(TinyHttpBody(50, 40, /*stream=*/false));
      if (answer && answer->status == 200) {
        ++num_answered_;
        return;
      }
      last = answer ? absl::StrCat(answer->status, " ", answer->body) : "no answer";
      if (answer && answer->status != 503) break;
      ++num_sent_on_;
    }
    std::lock_guard lock(mutex_);
    faults_.push_back(last);
  }

  const std::vector<const HttpNode*> nodes_;
  std::atomic<bool> stop_{false};
  std::atomic<size_t> num_answered_{0};
  std::atomic<size_t> num_sent_on_{0};
  mutable std::mutex mutex_;
  std::vector<std::string> faults_;
  std::vector<std::thread> clients_;
};

TEST(HttpDrainTest, RollingRestartOfTheDecodePoolLosesNoRequest) {
  Server prefill("kvship-prefill", kModel, {"--threads=1"});
  HttpNode first(prefill, "30s"), second(prefill, "30s");
  ASSERT_TRUE(prefill.WaitUntilReady() && first.decode.WaitUntilReady() &&
              second.decode.WaitUntilReady());
  BalancedClients load({&first, &second});
  for (HttpNode* node : {&first, &second}) {
    node->decode.process.Signal(SIGTERM);
    EXPECT_EQ(node->decode.process.Wait(), 0) << node->decode.process.Errors();
    node->decode.process.Restart();
    ASSERT_TRUE(node->decode.WaitUntilReady());
  }
  load.Stop();
  EXPECT_THAT(load.faults(), IsEmpty());
  EXPECT_GT(load.num_answered(), 20u);
  std::cout << "rolling restart of two decode nodes: " << load.num_answered()
            << " requests over HTTP answered, " << load.num_sent_on()
            << " of them by the second that was asked; " << load.faults().size() << " lost"
            << std::endl;
}

TEST(HttpDrainTest, AnswersThatOutliveTheGraceAreToldToComeAgain) {
  Server prefill("kvship-prefill", kModel, {"--threads=1"});
  HttpNode node(prefill, "20ms");
  ASSERT_TRUE(prefill.WaitUntilReady() && node.decode.WaitUntilReady());
  constexpr size_t kNumClients = 16;  // together they take longer than the drain
  struct Answer {
    int status = 0;  // 0: none
    std::string body;
  };
  std::vector<Answer> answers(kNumClients);
  std::vector<std::thread> clients;
  for (size_t i = 0; i < kNumClients; ++i) {
    clients.emplace_back([&, i] {
      const httplib::Result result = node.Post(TinyHttpBody(20, 2000, /*stream=*/i % 2 == 0));
      if (result) answers[i] = {result->status, result->body};
    });
  }
  ASSERT_TRUE(
      Eventually([&] { return node.decode.metric("kvship_decode_sessions") == kNumClients; }));
  node.decode.process.Signal(SIGTERM);
  EXPECT_EQ(node.decode.process.Wait(), 0) << node.decode.process.Errors();
  for (std::thread& client : clients) client.join();
  for (size_t i = 0; i < kNumClients; ++i) {
    EXPECT_EQ(answers[i].status, i % 2 == 0 ? 200 : 503);
    EXPECT_THAT(answers[i].body, HasSubstr("send the request again"));
    EXPECT_THAT(answers[i].body, HasSubstr("service_unavailable_error"));
  }
  std::cout << kNumClients << " answers over HTTP that outlived the drain were told to come again"
            << std::endl;
}

TEST(HttpDrainTest, AClientThatDoesNotReadHoldsUpNoStop) {
  Server prefill("kvship-prefill", kModel, {"--threads=1"});
  // Each event names the model: a few dozen of them are more than a connection holds.
  const std::string name(120 << 10, 'm');
  HttpNode node(prefill, "1s", name);
  ASSERT_TRUE(prefill.WaitUntilReady() && node.decode.WaitUntilReady());
  // Every token is in an event, whether it makes whole characters or not.
  const std::string body = TinyHttpBody(20, 2000, /*stream=*/true, name);
  const UnreadCompletion slow(node.http_port, absl::StrCat("{\"logprobs\":1,", body.substr(1)),
                              /*buffer_bytes=*/4096);
  ASSERT_TRUE(Eventually([&] { return node.decode.metric("kvship_decode_sessions") == 1; }));
  node.decode.process.Signal(SIGTERM);
  EXPECT_EQ(node.decode.process.Wait(), 0) << node.decode.process.Errors();
}

}  // namespace
}  // namespace kvship
