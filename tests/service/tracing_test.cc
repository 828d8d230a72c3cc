#include <gtest/gtest.h>
#include <httplib.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "service/metric_values.h"
#include "service/trace_context.h"
#include "service/trace_exporter.h"
#include "service/trace_json.h"
#include "service/tracer.h"
#include "tests/address_limit.h"
#include "tests/eventually.h"
#include "tests/sanitized.h"
#include "tests/service/silent_name_server.h"

namespace kvship {
namespace {

using Json = nlohmann::json;

constexpr char kTraceId[] = "4bf92f3577b34da6a3ce929d0e0e4736";
constexpr char kSpanId[] = "00f067aa0ba902b7";
constexpr char kParent[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST(TraceContext, IsReadAndWritten) {
  const TraceContext context = ParseTraceContext(kParent, "congo=t61rcWkgMzE");
  EXPECT_EQ(context.trace_id, kTraceId);
  EXPECT_EQ(context.span_id, kSpanId);
  EXPECT_TRUE(context.sampled);
  EXPECT_EQ(context.state, "congo=t61rcWkgMzE");
  EXPECT_EQ(context.TraceParent(), kParent);
}

TEST(TraceContext, TheSampledBitAloneIsLookedAt) {
  const std::string ids = std::string("00-") + kTraceId + "-" + kSpanId;
  EXPECT_FALSE(ParseTraceContext(ids + "-00", "").sampled);
  EXPECT_FALSE(ParseTraceContext(ids + "-fe", "").sampled);
  EXPECT_TRUE(ParseTraceContext(ids + "-ff", "").sampled);
  EXPECT_EQ(ParseTraceContext(ids + "-03", "").TraceParent(), ids + "-01");
}

TEST(TraceContext, LaterVersionsAreReadAsFarAsTheyAreKnown) {
  const std::string fields = std::string("-") + kTraceId + "-" + kSpanId + "-01";
  EXPECT_TRUE(ParseTraceContext("01" + fields, "").is_set());
  EXPECT_TRUE(ParseTraceContext("cc" + fields + "-what-comes", "").is_set());
  EXPECT_FALSE(ParseTraceContext("cc" + fields + ".what-comes", "").is_set());
  EXPECT_FALSE(ParseTraceContext("00" + fields + "-what-comes", "").is_set());
  EXPECT_FALSE(ParseTraceContext("ff" + fields, "").is_set());
}

TEST(TraceContext, WhatBreaksARuleIsNoContext) {
  EXPECT_FALSE(ParseTraceContext("", "").is_set());
  for (size_t at = 0; at < sizeof(kParent) - 1; ++at) {
    std::string wrong = kParent;
    wrong[at] = 'A';  // neither a dash nor a lower-case digit
    EXPECT_FALSE(ParseTraceContext(wrong, "").is_set()) << wrong;
    EXPECT_FALSE(ParseTraceContext(std::string(kParent).substr(0, at), "").is_set()) << at;
  }
  const std::string zeros(32, '0');
  EXPECT_FALSE(ParseTraceContext("00-" + zeros + "-" + kSpanId + "-01", "").is_set());
  EXPECT_FALSE(
      ParseTraceContext(std::string("00-") + kTraceId + "-0000000000000000-01", "").is_set());
}

TEST(TraceContext, AStateThatIsTooLongOrNotPrintableIsDropped) {
  EXPECT_EQ(ParseTraceContext(kParent, std::string(512, 'a')).state.size(), 512u);
  EXPECT_EQ(ParseTraceContext(kParent, std::string(513, 'a')).state, "");
  EXPECT_EQ(ParseTraceContext(kParent, "a=\n").state, "");
  EXPECT_TRUE(ParseTraceContext(kParent, "a=\n").is_set());
}

TEST(TraceContext, ASpanBelowHasAnIdOfItsOwnInTheSameTrace) {
  const TraceContext parent = ParseTraceContext(kParent, "a=b");
  const TraceContext child = NewSpan(parent);
  EXPECT_EQ(child.trace_id, parent.trace_id);
  EXPECT_NE(child.span_id, parent.span_id);
  EXPECT_EQ(child.state, "a=b");
  const TraceContext root = NewSpan({});
  EXPECT_TRUE(ParseTraceContext(root.TraceParent(), "").sampled);
  EXPECT_NE(NewSpan({}).trace_id, root.trace_id);
}

TEST(Tracer, WithoutAnExporterWhatCameIsHandedOn) {
  Tracer tracer;
  EXPECT_FALSE(tracer.Below({}).is_set());
  EXPECT_EQ(tracer.Below(ParseTraceContext(kParent, "")).TraceParent(), kParent);
}

TEST(TraceJson, IsAsOtlpWantsIt) {
  const TraceContext context = ParseTraceContext(kParent, "a=b");
  const absl::Time begin = absl::UnixEpoch() + absl::Seconds(5);
  const TraceSpan span = {.name = "compute",
                          .kind = TraceSpan::Kind::kServer,
                          .context = context,
                          .parent_id = "1111111111111111",
                          .begin = begin,
                          .end = begin + absl::Nanoseconds(7),
                          .attributes = {{"kvship.request_id", "abc"},
                                         {"kvship.prompt_tokens", uint64_t{9007199254740993}},
                                         {"kvship.kept_tokens", 0.5}},
                          .status = absl::CancelledError("quotes the prompt")};
  const TraceSpan::Attribute service = {"service.name", "kvship-test"};
  const Json body = Json::parse(TraceJson({&service, 1}, {&span, 1}, absl::Seconds(1000)));
  const Json& resource = body["resourceSpans"][0];
  EXPECT_EQ(resource["resource"]["attributes"][0]["value"]["stringValue"], "kvship-test");
  const Json& out = resource["scopeSpans"][0]["spans"][0];
  EXPECT_EQ(out["traceId"], kTraceId);
  EXPECT_EQ(out["spanId"], kSpanId);
  EXPECT_EQ(out["parentSpanId"], "1111111111111111");
  EXPECT_EQ(out["traceState"], "a=b");
  EXPECT_EQ(out["kind"], 2);
  EXPECT_EQ(out["startTimeUnixNano"], "1005000000000");
  EXPECT_EQ(out["endTimeUnixNano"], "1005000000007");
  EXPECT_EQ(out["attributes"][1]["value"]["intValue"], "9007199254740993");
  EXPECT_EQ(out["attributes"][2]["value"]["doubleValue"], 0.5);
  EXPECT_EQ(out["status"], (Json{{"code", 2}, {"message", "CANCELLED"}}));
}

// A collector that counts the spans it gets, and answers with `status`.
class Collector {
 public:
  explicit Collector(int status = 200) {
    server_.Post("/v1/traces",
                 [this, status](const httplib::Request& request, httplib::Response& response) {
                   const Json sent = Json::parse(request.body)["resourceSpans"][0];
                   {
                     std::lock_guard lock(mutex_);
                     for (const Json& attribute : sent["resource"]["attributes"]) {
                       resource_[attribute["key"]] = attribute["value"]["stringValue"];
                     }
                   }
                   num_spans_ += sent["scopeSpans"][0]["spans"].size();
                   response.status = status;
                 });
    port_ = server_.bind_to_any_port("127.0.0.1");
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) absl::SleepFor(absl::Milliseconds(1));
  }
  ~Collector() {
    server_.stop();
    thread_.join();
  }
  std::string endpoint(const std::string& host = "127.0.0.1") const {
    return "http://" + host + ":" + std::to_string(port_);
  }
  size_t num_spans() const { return num_spans_; }
  std::map<std::string, std::string> resource() {
    std::lock_guard lock(mutex_);
    return resource_;
  }

 private:
  httplib::Server server_;
  int port_ = 0;
  std::atomic<size_t> num_spans_{0};
  std::mutex mutex_;
  std::map<std::string, std::string> resource_;
  std::thread thread_;
};

class TraceExporterTest : public ::testing::Test {
 protected:
  std::unique_ptr<TraceExporter> Make(const std::string& endpoint) {
    return *TraceExporter::Create("kvship-test", endpoint, registry_);
  }
  double Counted(const std::string& outcome) const {
    return MetricValues(registry_).Sum("kvship_test_trace_spans_" + outcome + "_total");
  }
  static TraceSpan Span() {
    return {.name = "x", .context = NewSpan({}), .begin = MonotonicNow(), .end = MonotonicNow()};
  }
  // Destroys an exporter with one span under way and one in its queue.
  void EndWhileTheNameIsLookedUp(const SilentNameServer& names) {
    auto exporter = Make(std::string("http://") + SilentNameServer::kName);
    exporter->Add(Span());
    while (names.num_asking() == 0) absl::SleepFor(absl::Milliseconds(1));
    exporter->Add(Span());
    const absl::Time begin = absl::Now();
    exporter.reset();
    EXPECT_LT(absl::Now() - begin, absl::Seconds(4));
  }

  prometheus::Registry registry_;
};

TEST_F(TraceExporterTest, WhatIsLeftIsSentAtTheEnd) {
  Collector collector;
  {
    const auto exporter = Make(collector.endpoint());
    for (int i = 0; i < 1000; ++i) exporter->Add(Span());
  }
  EXPECT_EQ(collector.num_spans(), 1000u);
  EXPECT_EQ(Counted("exported"), 1000);
  EXPECT_EQ(Counted("dropped"), 0);
}

TEST_F(TraceExporterTest, ACollectorsAddressMayBeOfIpv6) {
  const int probe = socket(AF_INET6, SOCK_STREAM, 0);
  if (probe < 0) GTEST_SKIP() << "this machine has no IPv6";
  close(probe);
  Collector collector;
  // Which stands for that of IPv4.
  Make(collector.endpoint("[::ffff:127.0.0.1]"))->Add(Span());
  EXPECT_EQ(collector.num_spans(), 1u);
}

TEST_F(TraceExporterTest, SpansSayWhichProcessMadeThem) {
  Collector collector;
  Make(collector.endpoint())->Add(Span());
  char host[256] = {};
  ASSERT_EQ(gethostname(host, sizeof(host) - 1), 0);
  const std::map<std::string, std::string> wanted = {{"service.name", "kvship-test"},
                                                     {"service.version", KVSHIP_VERSION},
                                                     {"service.instance.id", host}};
  EXPECT_EQ(collector.resource(), wanted);
}

TEST_F(TraceExporterTest, FewSpansAreSentAfterASecond) {
  Collector collector;
  const auto exporter = Make(collector.endpoint() + "/");
  exporter->Add(Span());
  EXPECT_TRUE(Eventually([&] { return collector.num_spans() == 1; }, absl::Seconds(5)));
}

TEST_F(TraceExporterTest, WhatACollectorRefusesIsCounted) {
  Collector collector(503);
  Make(collector.endpoint())->Add(Span());
  EXPECT_EQ(Counted("dropped"), 1);
}

TEST_F(TraceExporterTest, SpansWhoseJsonMemoryDoesNotHoldAreDropped) {
  if (kSanitized) GTEST_SKIP() << "sanitizers take more addresses than the limit lets them";
  auto exporter = Make("http://127.0.0.1:1");
  TraceSpan span = Span();
  span.attributes = {{"large", std::string(64 << 20, 'x')}};
  exporter->Add(std::move(span));
  {
    const AddressLimit limit(size_t{32} << 20);
    exporter.reset();
  }
  EXPECT_EQ(Counted("dropped"), 1);
}

TEST_F(TraceExporterTest, ACollectorThatIsDownHoldsUpNobody) {
  const absl::Time begin = absl::Now();
  {
    const auto exporter = Make("http://127.0.0.1:1");  // tcpmux, which nobody has
    for (int i = 0; i < 20'000; ++i) exporter->Add(Span());
    EXPECT_LT(absl::Now() - begin, absl::Seconds(2));
  }
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
  EXPECT_EQ(Counted("dropped"), 20'000);
}

TEST_F(TraceExporterTest, ANameServerThatIsSilentHoldsUpNobody) {
  {
    const SilentNameServer names;
    EndWhileTheNameIsLookedUp(names);
    EXPECT_EQ(Counted("dropped"), 2);
  }
  EXPECT_EQ(Counted("dropped"), 2) << "the thread that came back touched the registry";
}

TEST_F(TraceExporterTest, AProcessEndsWhileTheNameOfItsCollectorIsLookedUp) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto end = [this] {
    const SilentNameServer names;
    EndWhileTheNameIsLookedUp(names);
    std::exit(HasFailure() ? 1 : 0);
  };
  EXPECT_EXIT(end(), ::testing::ExitedWithCode(0), "^$");
}

}  // namespace
}  // namespace kvship
