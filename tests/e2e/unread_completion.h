// A connection to a decode node's HTTP port on which one completion was asked for; nothing of the
// answer is read.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace kvship {

class UnreadCompletion {
 public:
  // The system holds what it likes of the answer, or about as much as `buffer_bytes`.
  UnreadCompletion(int port, const std::string& body, int buffer_bytes = 0)
      : socket_(socket(AF_INET, SOCK_STREAM, 0)) {
    if (buffer_bytes > 0) {
      setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof(buffer_bytes));
    }
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(port));
    EXPECT_EQ(connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    const std::string text = absl::StrCat(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n",
        "Content-Length: ", body.size(), "\r\n\r\n", body);
    EXPECT_EQ(send(socket_, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  }
  ~UnreadCompletion() { close(socket_); }
  UnreadCompletion(const UnreadCompletion&) = delete;
  UnreadCompletion& operator=(const UnreadCompletion&) = delete;

 private:
  const int socket_;
};

}  // namespace kvship
