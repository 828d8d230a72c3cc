#include "service/trace_endpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// The parts of what is read; an error's message.
std::string Parts(const std::string& text) {
  const auto endpoint = ParseTraceEndpoint(text);
  if (!endpoint.ok()) return std::string(endpoint.status().message());
  return absl::StrCat(endpoint->is_https ? "https " : "http ", endpoint->host, " ", endpoint->port,
                      " ", endpoint->path);
}

void ExpectRefused(std::initializer_list<std::string> texts) {
  for (const std::string& text : texts) {
    EXPECT_EQ(ParseTraceEndpoint(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_EQ(Parts(text),
              "--otlp_endpoint, or OTEL_EXPORTER_OTLP_ENDPOINT where that is empty, is '" + text +
                  "'; wanted http://HOST:PORT of an OTLP collector, as http://127.0.0.1:4318");
  }
}

TEST(TraceEndpoint, IsReadInItsParts) {
  EXPECT_EQ(Parts("http://collector"), "http collector 80 /v1/traces");
  EXPECT_EQ(Parts("https://otel_1.a-b.svc."), "https otel_1.a-b.svc. 443 /v1/traces");
  EXPECT_EQ(Parts("https://collector:4318/pre/fix/"), "https collector 4318 /pre/fix/v1/traces");
  EXPECT_EQ(Parts("http://127.0.0.1:4318/"), "http 127.0.0.1 4318 /v1/traces");
  EXPECT_EQ(Parts("http://[::1]"), "http ::1 80 /v1/traces");
  EXPECT_EQ(Parts("http://[fd00::a]:4318/x"), "http fd00::a 4318 /x/v1/traces");
  EXPECT_EQ(ParseTraceEndpoint("http://a:1/b/")->url, "http://a:1/b/v1/traces");
}

TEST(TraceEndpoint, OtherSchemesAreRefused) {
  ExpectRefused({"", "collector", "collector:4318", "grpc://collector:4317", "http:/collector"});
}

TEST(TraceEndpoint, WhatIsNoHostIsRefused) {
  ExpectRefused({"http://", "http://:4318", "http:///v1", "http://a b:4318", "http://a\n:4318"});
  ExpectRefused({"http://[::1", "http://[::1:4318", "http://[]:4318", "http://[collector]:4318",
                 "http://::1", "http://::1:4318", "http://[::1]4318"});
}

TEST(TraceEndpoint, WhatIsNoPortIsRefused) {
  ExpectRefused({"http://a:", "http://a:x", "http://a:0", "http://a:65536", "http://a:+1",
                 "http://a: 4318", "http://a:4318 ", "http://a:1:1", "http://[::1]:x"});
}

TEST(TraceEndpoint, WhatCannotBeInAPathIsRefused) {
  ExpectRefused({"http://a/b c", "http://a/b?c", "http://a/b#c", "http://a/\r\nHost: b"});
}

TEST(TraceEndpoint, APasswordIsRefusedAndNotShown) {
  for (const char* text : {"http://user:secret@collector:4318", "http://user:sec/ret@collector",
                           "user:secret@collector:4318"}) {
    EXPECT_THAT(Parts(text), HasSubstr("--otlp_endpoint"));
    EXPECT_THAT(Parts(text), HasSubstr("has an '@'"));
    EXPECT_THAT(Parts(text), Not(HasSubstr("sec")));
  }
}

}  // namespace
}  // namespace kvship
