#include "decode_service/http/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <future>
#include <iterator>
#include <latch>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/address_limit.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

TEST(ConnectionThreadsTest, NoMoreRunAtOnceThanAllowedAndAllAreRun) {
  ConnectionThreads threads(3);
  std::atomic<int> running{0}, most{0}, done{0};
  for (int i = 0; i < 50; ++i) {
    EXPECT_TRUE(threads.Run([&] {
      const int now = ++running;
      for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
      }
      absl::SleepFor(absl::Milliseconds(1));
      --running;
      ++done;
    }));
  }
  threads.Stop();
  EXPECT_EQ(done, 50);
  EXPECT_LE(most, 3);
  EXPECT_FALSE(threads.Run([] {}));
}

TEST(ConnectionThreadsTest, WhatSeveralGiveAtOnceIsAllRun) {
  constexpr int kGivers = 4;
  constexpr int kEach = 500;
  std::atomic<int> num_run = 0;
  ConnectionThreads threads(kGivers * kEach);
  std::vector<std::thread> givers;
  for (int i = 0; i < kGivers; ++i) {
    givers.emplace_back([&] {
      for (int j = 0; j < kEach; ++j) EXPECT_TRUE(threads.Run([&num_run] { ++num_run; }));
    });
  }
  for (std::thread& giver : givers) giver.join();
  threads.Stop();
  EXPECT_EQ(num_run, kGivers * kEach);
}

TEST(ConnectionThreadsTest, WhoWaitsIsSeenAndLetGoByStop) {
  ConnectionThreads threads(1);
  std::promise<void> finish;
  threads.Run([&] { finish.get_future().wait(); });
  std::promise<bool> ran;
  std::thread waiting([&] { ran.set_value(threads.Run([] {})); });
  while (!threads.crowded()) std::this_thread::yield();
  std::thread stopping([&] { threads.Stop(); });
  EXPECT_FALSE(ran.get_future().get());
  finish.set_value();
  waiting.join();
  stopping.join();
}

TEST(ConnectionThreadsTest, WithoutAThreadAConnectionIsRefusedAndLaterOnesAreRun) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers take more addresses than the limit lets them";
#endif
  constexpr size_t kMostThreads = 64;  // their stacks take 8 MiB each
  std::atomic<size_t> num_ended{0};
  ConnectionThreads threads(kMostThreads);
  std::promise<void> finish;
  const auto wait = [finished = finish.get_future().share(), &num_ended] {
    finished.wait();
    ++num_ended;
  };
  ASSERT_TRUE(threads.Run(wait));
  size_t num_running = 1;
  {
    const AddressLimit limit(size_t{64} << 20);
    while (num_running < kMostThreads && threads.Run(wait)) ++num_running;
    EXPECT_LT(num_running, kMostThreads);
    EXPECT_TRUE(threads.crowded());  // those without a request give way
  }
  ASSERT_TRUE(threads.Run(wait));
  EXPECT_FALSE(threads.crowded());
  finish.set_value();
  threads.Stop();
  EXPECT_EQ(num_ended, num_running + 1);
}

size_t NumThreads() {
  const std::filesystem::directory_iterator all("/proc/self/task");
  return std::distance(begin(all), end(all));
}

// Has `num_threads` connections at once, and returns when they have ended.
void Burst(ConnectionThreads& threads, int num_threads) {
  std::latch all_run(num_threads), all_ended(num_threads);
  for (int i = 0; i < num_threads; ++i) {
    ASSERT_TRUE(threads.Run([&] {
      all_run.arrive_and_wait();
      all_ended.count_down();
    }));
  }
  all_ended.wait();
}

TEST(ConnectionThreadsTest, ThreadsThatAreNotUsedEndAndOthersAreMadeAgain) {
  const size_t num_before = NumThreads();
  ConnectionThreads threads(64, /*idle_time=*/absl::Milliseconds(50));
  for (int i = 0; i < 2; ++i) {
    Burst(threads, 64);
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (NumThreads() > num_before && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(5));
    }
    EXPECT_EQ(NumThreads(), num_before);
  }
}

TEST(ConnectionThreadsTest, NoConnectionIsLostBetweenThreadsThatEnd) {
  ConnectionThreads threads(2, /*idle_time=*/absl::Microseconds(50));
  std::atomic<int> num_run = 0;
  for (int i = 0; i < 2000; ++i) {
    ASSERT_TRUE(threads.Run([&num_run] { ++num_run; }));
    absl::SleepFor(absl::Microseconds(i % 100));
  }
  threads.Stop();
  EXPECT_EQ(num_run, 2000);
}

TEST(ConnectionThreadsTest, AConnectionWakesOneThreadHoweverManyAreIdle) {
  constexpr int kThreads = 100;
  constexpr int kConnections = 200;
  ConnectionThreads threads(kThreads);
  Burst(threads, kThreads);
  const auto num_switches = [] {
    rusage usage = {};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nvcsw;
  };
  const long num_before = num_switches();
  for (int i = 0; i < kConnections; ++i) {
    std::promise<void> ran;
    ASSERT_TRUE(threads.Run([&ran] { ran.set_value(); }));
    ran.get_future().wait();
  }
  // The thread's, this one's, and where they meet at a lock.
  EXPECT_LT(num_switches() - num_before, kConnections * 10);
}

class HttpServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    server_.Get("/hello", [](const httplib::Request&, httplib::Response& response) {
      response.set_content("hi", "text/plain");
    });
    // Answers without reading the body.
    server_.Post("/refuse", [](const httplib::Request&, httplib::Response& response,
                               const httplib::ContentReader&) {
      HttpServer::connection().CloseAfterAnswer();
      response.status = 413;
    });
    server_.Post("/keep", [this](const httplib::Request&, httplib::Response& response,
                                 const httplib::ContentReader& reader) {
      HttpServer::connection().KeepConnection();
      HttpServer::connection().CloseAfterAnswer();
      waiting_ = true;
      std::string body;
      reader([&body](const char* bytes, size_t num_bytes) {
        body.append(bytes, num_bytes);
        return true;
      });
      response.set_content("got " + body, "text/plain");
    });
    server_.Get("/wait", [this](const httplib::Request&, httplib::Response& response) {
      waiting_ = true;
      while (!HttpServer::connection().client_has_gone() && !finish_) {
        absl::SleepFor(absl::Milliseconds(5));
      }
      gone_ = HttpServer::connection().client_has_gone();
      response.set_content("done", "text/plain");
    });
    // Makes of the body what there is no memory for, or fails in another way.
    server_.Post("/parse", [](const httplib::Request& request, httplib::Response&,
                              const httplib::ContentReader&) {
      if (request.has_param("wrong")) throw std::logic_error("wrong");
      throw std::bad_alloc();
    });
    // A stream for whose next part there is no memory.
    server_.Get("/short", [](const httplib::Request&, httplib::Response& response) {
      response.set_chunked_content_provider(
          "text/plain", [](size_t, httplib::DataSink&) -> bool { throw std::bad_alloc(); });
    });
    // More than a connection holds.
    server_.Get("/much", [this](const httplib::Request&, httplib::Response& response) {
      waiting_ = true;
      response.set_content(std::string(64 << 20, 'x'), "text/plain");
    });
    ASSERT_TRUE(server_.Listen("http", "127.0.0.1:0").ok());
  }

  // A connection on which these bytes were sent and nothing is read.
  int Send(const std::string& bytes) const {
    const int made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(server_.port()));
    EXPECT_EQ(connect(made, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(send(made, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    return made;
  }

  // What comes up to the connection's end.
  static std::string ReadAll(int connection) {
    std::string all;
    char piece[4096];
    for (ssize_t n; (n = recv(connection, piece, sizeof(piece), 0)) > 0;) all.append(piece, n);
    return all;
  }

  httplib::Client Client() const {
    httplib::Client client("127.0.0.1", server_.port());
    client.set_keep_alive(true);
    return client;
  }

  static bool Eventually(const std::atomic<bool>& condition) {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (!condition && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(5));
    return condition;
  }

  std::atomic<bool> waiting_{false}, finish_{false}, gone_{false};
  HttpServer server_{/*max_connections=*/8, /*max_body_bytes=*/1 << 20};
};

TEST_F(HttpServerTest, ManyClientsShareFewConnections) {
  std::atomic<int> answered{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 20; ++i) {
    clients.emplace_back([&] {
      httplib::Client client = Client();
      for (int j = 0; j < 5; ++j) {
        if (const auto answer = client.Get("/hello"); answer && answer->body == "hi") ++answered;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(answered, 100);
}

TEST_F(HttpServerTest, AnAnswerArrivesThoughTheBodyIsNotRead) {
  const auto answer = Client().Post("/refuse", std::string(8 << 20, 'x'), "text/plain");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 413);
  EXPECT_EQ(answer->get_header_value("Connection"), "close");
}

TEST_F(HttpServerTest, AClientThatGoesIsSeen) {
  std::thread client([this] {
    httplib::Client impatient = Client();
    impatient.set_read_timeout(0, 50'000);
    EXPECT_FALSE(impatient.Get("/wait"));
  });
  client.join();
  EXPECT_TRUE(Eventually(gone_));
}

TEST_F(HttpServerTest, AnAnswerThatMemoryDoesNotHoldEndsItsConnectionAlone) {
  EXPECT_FALSE(Client().Get("/short"));
  EXPECT_TRUE(Client().Get("/hello"));
}

TEST_F(HttpServerTest, ABodyThatMemoryDoesNotHoldIsRefusedWithASentence) {
  const auto refused = Client().Post("/parse", std::string(1 << 20, 'x'), "text/plain");
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->status, 429);
  EXPECT_THAT(refused->body, HasSubstr("no memory left"));
  EXPECT_TRUE(refused->has_header("Retry-After"));
  EXPECT_EQ(refused->get_header_value("Connection"), "close");
  const auto failed = Client().Post("/parse?wrong=1", "x", "text/plain");
  ASSERT_TRUE(failed);
  EXPECT_EQ(failed->status, 500);
  EXPECT_THAT(failed->body, HasSubstr("the request failed in the server"));
  EXPECT_FALSE(failed->has_header("EXCEPTION_WHAT"));
}

TEST_F(HttpServerTest, StopWaitsForTheAnswerThatIsBeingGiven) {
  std::string body;
  std::thread client([&] {
    if (const auto answer = Client().Get("/wait")) body = answer->body;
  });
  ASSERT_TRUE(Eventually(waiting_));
  std::thread stopping([this] { server_.Stop(absl::Minutes(1)); });
  finish_ = true;
  stopping.join();
  client.join();
  EXPECT_EQ(body, "done");
}

TEST_F(HttpServerTest, StopWaitsNoLongerThanItIsToldForClients) {
  const int does_not_read = Send("GET /much HTTP/1.1\r\n\r\n");
  const int sends_half = Send("GET /hello HTTP/1.1\r\n");
  ASSERT_TRUE(Eventually(waiting_));
  const absl::Time begin = absl::Now();
  server_.Stop(absl::Milliseconds(200));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(200));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
  close(does_not_read);
  close(sends_half);
}

TEST_F(HttpServerTest, RequestsThatDoNotEndGiveWayToOthers) {
  std::vector<int> slow;
  for (const std::string request : {"GET /hello HTTP/1.1\r\n", "GET /much HTTP/1.1\r\n\r\n"}) {
    for (int i = 0; i < 8; ++i) slow.push_back(Send(request));
    const auto answer = Client().Get("/hello");
    ASSERT_TRUE(answer) << request;
    EXPECT_EQ(answer->body, "hi");
  }
  for (const int each : slow) close(each);
}

TEST_F(HttpServerTest, ARequestThatKeepsItsConnectionGivesWayToNobody) {
  std::vector<int> slow;
  for (int i = 0; i < 7; ++i) slow.push_back(Send("GET /hello HTTP/1.1\r\n"));
  const int keeps = Send("POST /keep HTTP/1.1\r\nContent-Length: 2\r\n\r\n");
  ASSERT_TRUE(Eventually(waiting_));
  absl::SleepFor(absl::Milliseconds(1100));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Client().Get("/hello"));
  EXPECT_EQ(send(keeps, "{}", 2, 0), 2);
  EXPECT_THAT(ReadAll(keeps), HasSubstr("got {}"));
  close(keeps);
  for (const int each : slow) close(each);
}

TEST_F(HttpServerTest, HeadersHaveTenSecondsAndABodyHasLonger) {
  const int headers = Send("GET /hello HTTP/1.1\r\nX: ");
  const int body = Send("POST /keep HTTP/1.1\r\nContent-Length: 2\r\n\r\n");
  const absl::Time begin = absl::Now();
  std::thread trickling([headers] {
    while (send(headers, "x", 1, MSG_NOSIGNAL) == 1) absl::SleepFor(absl::Milliseconds(200));
  });
  ReadAll(headers);
  EXPECT_GT(absl::Now() - begin, absl::Seconds(9));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(15));
  EXPECT_EQ(send(body, "{}", 2, 0), 2);
  EXPECT_THAT(ReadAll(body), HasSubstr("got {}"));
  trickling.join();
  for (const int each : {headers, body}) close(each);
}

TEST_F(HttpServerTest, DrainingClosesConnectionsButStillAnswers) {
  httplib::Client client = Client();
  ASSERT_TRUE(client.Get("/hello"));
  server_.StartDraining();
  const auto answer = client.Get("/hello");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->get_header_value("Connection"), "close");
}

TEST(HttpServerAgeTest, AnOldConnectionEndsAfterItsAnswer) {
  HttpServer server(1, 1);
  server.Get("/hello", [](const httplib::Request&, httplib::Response& response) {
    response.set_content("hi", "text/plain");
  });
  server.SetMaxConnectionAge(absl::ZeroDuration());
  ASSERT_TRUE(server.Listen("http", "127.0.0.1:0").ok());
  httplib::Client client("127.0.0.1", server.port());
  client.set_keep_alive(true);
  for (int i = 0; i < 2; ++i) {
    const auto answer = client.Get("/hello");
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->body, "hi");
    EXPECT_EQ(answer->get_header_value("Connection"), "close");
  }
}

TEST(HttpServerListenTest, APortInUseIsNamedWithItsFlag) {
  HttpServer first(1, 1), second(1, 1);
  ASSERT_TRUE(first.Listen("http", "127.0.0.1:0").ok());
  const absl::Status status = second.Listen("http", absl::StrCat("127.0.0.1:", first.port()));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--http"));
}

}  // namespace
}  // namespace kvship
