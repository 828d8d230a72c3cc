#include "service/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/eventually.h"
#include "tests/service/no_descriptor_left.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

class HttpServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    server_.Get("/hello", [](const httplib::Request&, httplib::Response& response) {
      response.set_content("hi", "text/plain");
    });
    server_.Get("/to/.*", [](const httplib::Request& request, httplib::Response& response) {
      const std::string host = request.get_header_value("Host");
      response.set_content(absl::StrCat(request.get_header_value_count("Host"), " ", host, " ",
                                        request.path, " ", request.get_param_value("a")),
                           "text/plain");
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
    // A stream for whose next part there is no memory.
    server_.Get("/short", [](const httplib::Request&, httplib::Response& response) {
      response.set_chunked_content_provider(
          "text/plain", [](size_t, httplib::DataSink&) -> bool { throw std::bad_alloc(); });
    });
    // More than a connection holds.
    server_.Get("/much", [this](const httplib::Request&, httplib::Response& response) {
      waiting_ = true;
      response.set_content(std::string(16 << 20, 'x'), "text/plain");
    });
    ASSERT_TRUE(server_.Listen("http", "127.0.0.1:0").ok());
  }

  // A connection, of this socket, on which these bytes were sent and nothing is read.
  int Send(const std::string& bytes,
           int made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) const {
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

  std::atomic<bool> waiting_{false}, finish_{false}, gone_{false};
  HttpServer server_{{.max_connections = 8, .max_body_bytes = 1 << 20}};
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

TEST_F(HttpServerTest, AnOldClientIsToldThatItsConnectionStaysOpen) {
  // It would wait for the end of one that is not said to.
  const std::string kept = "GET /hello HTTP/1.0\r\nConnection: ";
  for (const std::string options : {"Keep-Alive", "keep-alive", "x, Keep-alive"}) {
    const int connection = Send(kept + options + "\r\n\r\nGET /hello HTTP/1.0\r\n\r\n");
    const std::string all = ReadAll(connection);
    const size_t second = all.rfind("HTTP/1.1 200");
    ASSERT_GT(second, 0u) << options;
    EXPECT_THAT(all.substr(0, second), HasSubstr("\r\nConnection: keep-alive\r\n")) << options;
    EXPECT_THAT(all.substr(second), HasSubstr("\r\nConnection: close\r\n"));
    close(connection);
  }
  const int closed = Send(kept + "keep-alive, close\r\n\r\n");
  EXPECT_THAT(ReadAll(closed), HasSubstr("\r\nConnection: close\r\n"));
  close(closed);
  const int refused =
      Send("POST /refuse HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 9\r\n\r\n");
  EXPECT_THAT(ReadAll(refused), HasSubstr("\r\nConnection: close\r\n"));
  close(refused);
  httplib::Client client = Client();
  EXPECT_FALSE(client.Get("/hello")->has_header("Connection"));
}

// What comes behind the headers.
std::string BodyOf(const std::string& answer) { return answer.substr(answer.find("\r\n\r\n") + 4); }

TEST_F(HttpServerTest, ATargetInAbsoluteFormNamesTheHost) {
  const auto answer_to = [this](const std::string& line, const std::string& hosts) {
    const int connection = Send("GET " + line + "\r\nConnection: close\r\n" + hosts + "\r\n");
    const std::string all = ReadAll(connection);
    close(connection);
    return all;
  };
  const std::string host = "Host: a\r\n";
  EXPECT_EQ(BodyOf(answer_to("http://b:1/to/x%20y?a=http://c/d HTTP/1.1", host)),
            "1 b:1 /to/x y http://c/d");
  EXPECT_EQ(BodyOf(answer_to("HTTPS://[::1]:1/to/x HTTP/1.0", "")), "1 [::1]:1 /to/x ");
  // To be refused by whoever looks at Host.
  EXPECT_EQ(BodyOf(answer_to("http://b/to/x HTTP/1.1", "")), "0  /to/x ");
  EXPECT_EQ(BodyOf(answer_to("http://b/to/x HTTP/1.1", host + host)), "2 a /to/x ");
  EXPECT_EQ(BodyOf(answer_to("/to/http://b/x HTTP/1.1", host)), "1 a /to/http://b/x ");
  for (const std::string nowhere :
       {"http:///to/x", "http://b", "http://b?a=/to/x", "http://u@b/to/x", "http://b%2Fto/x",
        "%68ttp://b/to/x", "ftp://b/to/x"}) {
    EXPECT_THAT(answer_to(nowhere + " HTTP/1.1", host), HasSubstr("HTTP/1.1 404")) << nowhere;
  }
}

TEST_F(HttpServerTest, AnEmptyLineBeforeARequestIsNoRequest) {
  const std::string request = "GET /to/x HTTP/1.1\r\nHost: a\r\n";
  const int whole = Send("\r\n" + request + "\r\n\r\n" + request + "Connection: close\r\n\r\n");
  const std::string all = ReadAll(whole);
  EXPECT_EQ(all.find("HTTP/1.1 200"), 0u);
  EXPECT_GT(all.rfind("HTTP/1.1 200"), 0u);
  close(whole);
  const int pieces = Send("\r");
  for (const std::string piece : {"\n", "GET /to/x HTTP", "/1.1\r\nConnection: close\r\n\r\n"}) {
    absl::SleepFor(absl::Milliseconds(20));
    EXPECT_EQ(send(pieces, piece.data(), piece.size(), 0), static_cast<ssize_t>(piece.size()));
  }
  EXPECT_EQ(ReadAll(pieces).find("HTTP/1.1 200"), 0u);
  close(pieces);
  for (const std::string more_than_one : {"\r\n\r\n", "\r", "\n\r\n"}) {
    const int refused = Send(more_than_one + request + "\r\n");
    EXPECT_EQ(ReadAll(refused).find("HTTP/1.1 400"), 0u);
    close(refused);
  }
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
  EXPECT_TRUE(Eventually([this] { return gone_.load(); }));
}

TEST_F(HttpServerTest, AnAnswerThatMemoryDoesNotHoldEndsItsConnectionAlone) {
  EXPECT_FALSE(Client().Get("/short"));
  EXPECT_TRUE(Client().Get("/hello"));
}

TEST_F(HttpServerTest, StopWaitsForTheAnswerThatIsBeingGiven) {
  std::string body;
  std::thread client([&] {
    if (const auto answer = Client().Get("/wait")) body = answer->body;
  });
  ASSERT_TRUE(Eventually([this] { return waiting_.load(); }));
  std::thread stopping([this] { server_.Stop(absl::Minutes(1)); });
  absl::SleepFor(absl::Milliseconds(100));  // one that waits for nothing has stopped by then
  finish_ = true;
  stopping.join();
  client.join();
  EXPECT_EQ(body, "done");
}

TEST_F(HttpServerTest, StopWaitsNoLongerThanItIsToldForClients) {
  const int does_not_read = Send("GET /much HTTP/1.1\r\n\r\n");
  const int sends_half = Send("GET /hello HTTP/1.1\r\n");
  ASSERT_TRUE(Eventually([this] { return waiting_.load(); }));
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
  ASSERT_TRUE(Eventually([this] { return waiting_.load(); }));
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

TEST_F(HttpServerTest, AConnectionThatComesWhileNoDescriptorIsLeftIsServedLater) {
  const int first = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int second = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  {
    const NoDescriptorLeft none;
    // The server may have the one that it waits with.
    Send("GET /wait HTTP/1.1\r\nConnection: close\r\n\r\n", first);
    Send("GET /hello HTTP/1.1\r\nConnection: close\r\n\r\n", second);
    absl::SleepFor(absl::Milliseconds(100));
    char byte = 0;
    EXPECT_LT(recv(second, &byte, 1, MSG_DONTWAIT), 0);
  }
  finish_ = true;
  EXPECT_THAT(ReadAll(first), HasSubstr("done"));
  EXPECT_THAT(ReadAll(second), HasSubstr("hi"));
  close(first);
  close(second);
}

TEST_F(HttpServerTest, DrainingClosesConnectionsButStillAnswers) {
  httplib::Client client = Client();
  ASSERT_TRUE(client.Get("/hello"));
  server_.StartDraining();
  const auto answer = client.Get("/hello");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->get_header_value("Connection"), "close");
}

TEST(HttpServerAnswerTest, AClientThatDoesNotReadHoldsItsConnectionForSecondsOnly) {
  HttpServer server({.header_time = absl::Milliseconds(100)});
  server.Get("/much", [](const httplib::Request&, httplib::Response& response) {
    response.set_content(std::string(16 << 20, 'x'), "text/plain");
  });
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  ASSERT_EQ(send(ends[0], "GET /much HTTP/1.1\r\n\r\n", 22, 0), 22);
  const absl::Time begin = absl::Now();
  server.Serve(ends[1], /*tls=*/nullptr);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(15));
  close(ends[0]);
}

TEST(HttpServerAgeTest, AnOldConnectionEndsAfterItsAnswer) {
  HttpServer server({.max_connection_age = absl::ZeroDuration()});
  server.Get("/hello", [](const httplib::Request&, httplib::Response& response) {
    response.set_content("hi", "text/plain");
  });
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
  HttpServer first({}), second({});
  ASSERT_TRUE(first.Listen("http", "127.0.0.1:0").ok());
  const absl::Status status = second.Listen("http", absl::StrCat("127.0.0.1:", first.port()));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--http"));
}

}  // namespace
}  // namespace kvship
