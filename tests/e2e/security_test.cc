// Who may call whom, between real processes over TLS.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <fstream>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "client/generation_client.h"
#include "kvship/v1/prefill.grpc.pb.h"
#include "rpc/errors.h"
#include "tests/e2e/api_tokens_file.h"
#include "tests/e2e/certificates.h"
#include "tests/e2e/processes.h"
#include "tests/e2e/tiny_request.h"
#include "tests/temp_folder.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

constexpr char kModel[] = KVSHIP_GOLDENS "/models/llama";
constexpr char kServerNames[] = "DNS:server.test,IP:127.0.0.1";

GenerationClient::Options Over(const TlsFiles& files) {
  return {.retries = 0, .credentials = *ChannelTls(files)};
}

absl::Status Ask(const Server& decode, const GenerationClient::Options& options) {
  GenerationClient client(decode.address(), options);
  return client.Generate(TinyRequest(20, 5), absl::Seconds(30), [](const v1::GenerateResponse&) {})
      .status();
}

std::vector<std::string> TlsFlags(const TlsFiles& files) {
  return {"--threads=1", "--tls_cert=" + files.certificate, "--tls_key=" + files.key,
          "--tls_client_ca=" + files.ca};
}

std::vector<std::string> Joined(std::vector<std::string> flags,
                                const std::vector<std::string>& more) {
  flags.insert(flags.end(), more.begin(), more.end());
  return flags;
}

// A decode and a prefill node that know each other by certificates of one authority.
struct MutualTls {
  explicit MutualTls(const std::string& decode_names = "DNS:decode.test,IP:127.0.0.1",
                     const std::vector<std::string>& decode_flags = {})
      : decode_files(authority.Issue(decode_names)),
        prefill("kvship-prefill", kModel,
                Joined(TlsFlags(authority.Issue(kServerNames)), {"--allowed_peers=decode.test"})),
        decode(
            "kvship-decode", kModel,
            Joined(Joined(TlsFlags(decode_files), {"--prefill=dns:///" + prefill.address(),
                                                   "--prefill_tls_ca=" + authority.certificate()}),
                   decode_flags)) {}

  Authority authority;
  const TlsFiles decode_files;
  Server prefill;
  Server decode;
};

TEST(SecurityTest, MutualTlsServesARequestFromEndToEnd) {
  MutualTls nodes;
  ASSERT_TRUE(nodes.decode.WaitUntilReady()) << nodes.decode.process.Errors();
  const absl::Status status = Ask(nodes.decode, Over(nodes.authority.Issue("DNS:client.test")));
  EXPECT_TRUE(status.ok()) << status;
}

TEST(SecurityTest, AClientWithoutACertificateOfTheAuthorityIsRefused) {
  MutualTls nodes("DNS:decode.test,IP:127.0.0.1", {"--log_format=json"});
  ASSERT_TRUE(nodes.decode.WaitUntilReady()) << nodes.decode.process.Errors();
  Authority other;
  TlsFiles foreign = other.Issue("DNS:client.test");
  foreign.ca = nodes.authority.certificate();
  for (const TlsFiles& files : {foreign, TlsFiles{.ca = nodes.authority.certificate()}}) {
    const absl::Status status = Ask(nodes.decode, Over(files));
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  }
  EXPECT_EQ(Ask(nodes.decode, {.retries = 0}).code(), absl::StatusCode::kUnavailable);
  const std::string log = nodes.decode.process.Errors();
  EXPECT_THAT(log, HasSubstr(R"("message":"gRPC: Handshake failed)"));
  for (const absl::string_view line : absl::StrSplit(log, '\n', absl::SkipEmpty())) {
    EXPECT_TRUE(absl::StartsWith(line, R"({"time":")")) << line;
  }
}

TEST(SecurityTest, OnlyAllowedNamesMayCall) {
  MutualTls nodes("DNS:decode.test,IP:127.0.0.1", {"--allowed_peers=a.test,spiffe://kvship/b"});
  ASSERT_TRUE(nodes.decode.WaitUntilReady()) << nodes.decode.process.Errors();
  for (const char* names : {"DNS:x.test,DNS:a.test", "URI:spiffe://kvship/b"}) {
    const absl::Status status = Ask(nodes.decode, Over(nodes.authority.Issue(names)));
    EXPECT_TRUE(status.ok()) << names << ": " << status;
  }
  const TlsFiles stranger = nodes.authority.Issue("DNS:x.test");
  const absl::Status status = Ask(nodes.decode, Over(stranger));
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("[x.test]; wanted one for a.test or"));

  const auto prefill = v1::PrefillService::NewStub(
      grpc::CreateChannel(nodes.prefill.address(), *ChannelTls(stranger)));
  grpc::ClientContext info_context, prefill_context;
  v1::PrefillServiceGetModelInfoResponse info;
  EXPECT_EQ(prefill->GetModelInfo(&info_context, {}, &info).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(prefill->Prefill(&prefill_context)->Finish().error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
}

TEST(SecurityTest, ADecodeNodeThatMayNotCallPrefillSaysSo) {
  MutualTls nodes("DNS:other.test,IP:127.0.0.1");
  ASSERT_TRUE(nodes.prefill.WaitUntilReady()) << nodes.prefill.process.Errors();
  const auto client = Over(nodes.authority.Issue("DNS:client.test"));
  EXPECT_TRUE(Eventually([&] {
    const absl::Status status = Ask(nodes.decode, client);
    return absl::StrContains(status.message(), "[other.test]; wanted one for decode.test");
  })) << Ask(nodes.decode, client);
  EXPECT_EQ(HttpGet(nodes.decode.admin_port, "/readyz"), "");
  EXPECT_THAT(nodes.decode.process.Errors(),
              HasSubstr(absl::StrCat(nodes.prefill.port, ": the caller's certificate")));
}

TEST(SecurityTest, AServerWhoseCertificateIsForAnotherNameIsNotTrusted) {
  Authority authority;
  Server decode("kvship-decode", kModel, TlsFlags(authority.Issue("DNS:elsewhere.test")));
  ASSERT_TRUE(Eventually([&] { return HttpGet(decode.admin_port, "/healthz") == "ok\n"; }));
  const absl::Status status = Ask(decode, Over(authority.Issue("DNS:client.test")));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
}

TEST(SecurityTest, APrefillNodeMustBeCertifiedForTheNameItIsGivenBy) {
  Authority authority;
  Server prefill("kvship-prefill", kModel, TlsFlags(authority.Issue("DNS:localhost")));
  ASSERT_TRUE(prefill.WaitUntilReady()) << prefill.process.Errors();
  const auto decode_of = [&](const std::string& host) {
    return std::make_unique<Server>(
        "kvship-decode", kModel,
        Joined(TlsFlags(authority.Issue(kServerNames)),
               {absl::StrCat("--prefill=dns:///", host, ":", prefill.port),
                "--prefill_tls_ca=" + authority.certificate()}));
  };
  const auto by_name = decode_of("localhost");
  EXPECT_TRUE(by_name->WaitUntilReady()) << by_name->process.Errors();
  const auto by_address = decode_of("127.0.0.1");
  const auto client = Over(authority.Issue("DNS:client.test"));
  absl::Status status;
  EXPECT_TRUE(Eventually([&] {
    status = Ask(*by_address, client);
    return absl::StrContains(status.message(), "verif");
  })) << status;
  EXPECT_TRUE(Eventually([&] {
    return absl::StrContains(by_address->process.Errors(), "refuses the other's certificate");
  })) << by_address->process.Errors();
}

TEST(SecurityTest, AReplacedCertificateIsShownToTheNextConnection) {
  MutualTls nodes;
  ASSERT_TRUE(nodes.decode.WaitUntilReady()) << nodes.decode.process.Errors();
  Authority next;
  TlsFiles client = nodes.authority.Issue("DNS:client.test");
  client.ca = next.certificate();
  EXPECT_EQ(Ask(nodes.decode, Over(client)).code(), absl::StatusCode::kUnavailable);
  Replace(nodes.decode_files, next.Issue("DNS:decode.test,IP:127.0.0.1"));
  absl::Status status;
  EXPECT_TRUE(Eventually([&] {
    status = Ask(nodes.decode, Over(client));
    return status.ok();
  })) << status;
}

// As a copy leaves them behind where the disk is full: with empty ones gRPC would end the process.
TEST(SecurityTest, FilesThatCannotBeUsedChangeNothing) {
  MutualTls nodes;
  ASSERT_TRUE(nodes.decode.WaitUntilReady()) << nodes.decode.process.Errors();
  const auto client = Over(nodes.authority.Issue("DNS:client.test"));
  for (const std::string& path : {nodes.decode_files.certificate, nodes.decode_files.key}) {
    const std::string content = ReadBytes(path);
    std::ofstream(path).flush();
    EXPECT_TRUE(Eventually([&] {
      const std::string warning = absl::StrCat("TLS stays as it was: '", path, "'");
      return absl::StrContains(nodes.decode.process.Errors(), warning);
    })) << nodes.decode.process.Errors();
    absl::SleepFor(absl::Seconds(2));  // gRPC looks once a second
    EXPECT_EQ(Ask(nodes.decode, client), absl::OkStatus()) << path;
    std::ofstream(path) << content;
  }
}

TEST(SecurityTest, PortsOpenToOthersNeedTlsAndKnownCallers) {
  Authority authority;
  const TlsFiles files = authority.Issue(kServerNames);
  const std::vector<std::string> identity = {"--tls_cert=" + files.certificate,
                                             "--tls_key=" + files.key};
  const std::vector<std::string> open = {"--listen=0.0.0.0:0", "--admin=127.0.0.1:0",
                                         absl::StrCat("--model=", kModel)};
  const std::vector<std::string> open_http = {"--listen=127.0.0.1:0", "--http=0.0.0.0:0",
                                              "--admin=127.0.0.1:0",
                                              absl::StrCat("--model=", kModel)};
  struct Case {
    const char* program;
    std::vector<std::string> flags;
    const char* message;
  };
  for (const Case& c : {
           Case{"kvship-prefill", open, "--listen is '0.0.0.0:0'"},
           Case{"kvship-prefill", Joined(open, identity), "wanted --tls_client_ca"},
           Case{"kvship-decode", open, "wanted --tls_cert"},
           Case{"kvship-decode", Joined(open, identity), "--tls_client_ca or --api_tokens_file"},
           Case{"kvship-decode", open_http, "--http is '0.0.0.0:0'"},
           Case{"kvship-decode", Joined(open_http, identity), "wanted --api_tokens_file"},
           Case{"kvship-decode", {"--model=x", "--prefill=far:50051"}, "--prefill is 'far:50051'"},
           Case{"kvship-decode", {"--model=x", "--tls_cert=y"}, "wanted both or neither"},
           Case{"kvship-prefill", {"--model=x", "--allowed_peers=y"}, "wanted --tls_client_ca"},
           Case{"kvship-prefill",
                {"--model=x", "--tls_cert=" + files.certificate, "--tls_key=" + files.ca},
                "with the key of"},
       }) {
    Process process(c.program, c.flags);
    EXPECT_EQ(process.Wait(), 1) << c.message;
    EXPECT_THAT(process.Errors(), HasSubstr(c.message));
  }
  Server insecure("kvship-prefill", kModel, {"--insecure", "--listen=0.0.0.0:0"});
  EXPECT_TRUE(insecure.WaitUntilReady()) << insecure.process.Errors();
}

TEST(SecurityTest, ACompressedMessageIsRefusedBeforeItGrows) {
  Server decode("kvship-decode", kModel);
  GenerationClient client(decode.address());
  grpc::ClientContext context;
  client.SetContext(absl::Seconds(30), &context);
  context.set_wait_for_ready(true);
  context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  v1::TokenizeRequest request;
  request.set_text(std::string(1 << 20, 'a'));
  v1::TokenizeResponse response;
  EXPECT_EQ(client.stub().Tokenize(&context, request, &response).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

GenerationClient::Options WithTokenOf(const std::string& name) {
  return {.retries = 0, .api_token = ApiTokensFile::TokenOf(name)};
}

class ApiTokensTest : public ::testing::Test {
 protected:
  std::unique_ptr<Server> Decode(const std::vector<std::string>& flags) {
    auto decode = std::make_unique<Server>(
        "kvship-decode", kModel,
        Joined({"--threads=1", "--prefill=" + prefill_.address(), tokens_.flag()}, flags));
    EXPECT_TRUE(decode->WaitUntilReady()) << decode->process.Errors();
    return decode;
  }

  const ApiTokensFile tokens_{{"alice", "bob"}};
  Server prefill_{"kvship-prefill", kModel, {"--threads=1"}};
};

TEST_F(ApiTokensTest, OnlyAKnownTokenIsServed) {
  const auto decode = Decode({});
  EXPECT_TRUE(Ask(*decode, WithTokenOf("alice")).ok());
  EXPECT_THAT(decode->process.Errors(), HasSubstr("client=\"alice\""));
  for (const auto& options : {WithTokenOf("carol"), GenerationClient::Options{.retries = 0}}) {
    const absl::Status status = Ask(*decode, options);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << status;
    GenerationClient client(decode->address(), options);
    EXPECT_EQ(client.GetModelInfo(absl::Seconds(10)).status().code(),
              absl::StatusCode::kUnauthenticated);
  }
  EXPECT_THAT(decode->process.Errors(), ::testing::Not(HasSubstr("token\"")));
}

TEST_F(ApiTokensTest, AChangedFileCountsFromTheNextRequest) {
  const auto decode = Decode({});
  tokens_.WriteTokensOf({"carol"});
  EXPECT_TRUE(Ask(*decode, WithTokenOf("carol")).ok());
  EXPECT_EQ(Ask(*decode, WithTokenOf("alice")).code(), absl::StatusCode::kUnauthenticated);
  tokens_.Write("not a line\n");
  EXPECT_TRUE(Ask(*decode, WithTokenOf("carol")).ok());
  EXPECT_THAT(decode->process.Errors(), HasSubstr("line 1 is no token"));
}

TEST_F(ApiTokensTest, TheCommandLineTakesATokenAndCertificatesFromFiles) {
  Authority authority;
  const TlsFiles server = authority.Issue(kServerNames);
  const TlsFiles client = authority.Issue("DNS:client.test");
  const auto decode = Decode(TlsFlags(server));
  const TempFolder folder;
  const std::string token_path = folder.Write("alice", "alice's\n");
  tokens_.Write(ApiTokensFile::LineOf("alice", "alice's"));
  const std::vector<std::string> flags = {
      "models", "--server=" + decode->address(), "--tls-ca=" + client.ca,
      "--tls-cert=" + client.certificate, "--tls-key=" + client.key};
  Process known("kvship", Joined(flags, {"--api-token-file=" + token_path}));
  EXPECT_EQ(known.Wait(), 0) << known.Errors();
  Process unknown("kvship", flags);
  EXPECT_EQ(unknown.Wait(), 1);
  EXPECT_THAT(unknown.Errors(), HasSubstr("wanted the header"));
}

TEST_F(ApiTokensTest, AClientHasNoMoreRequestsAtATimeThanItMay) {
  const auto decode = Decode({"--max_client_requests=1"});
  GenerationClient alice(decode->address(), WithTokenOf("alice"));
  v1::GenerateRequest request = TinyRequest(20, 2000);
  request.set_logprobs(20);  // far more than connections buffer: reading slowly holds it open
  bool first = true;
  const auto report =
      alice.Generate(request, absl::Seconds(60), [&](const v1::GenerateResponse& response) {
        if (!first || !response.has_output()) return;
        first = false;
        const absl::Status second = Ask(*decode, WithTokenOf("alice"));
        EXPECT_EQ(second.code(), absl::StatusCode::kResourceExhausted) << second;
        EXPECT_TRUE(RetryDelayOf(second).has_value());
        EXPECT_TRUE(Ask(*decode, WithTokenOf("bob")).ok());
      });
  EXPECT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(Ask(*decode, WithTokenOf("alice")).ok());
}

TEST_F(ApiTokensTest, ARequestWithoutADeadlineGetsTheServers) {
  const auto decode = Decode({"--default_deadline=5ms"});
  GenerationClient alice(decode->address(), WithTokenOf("alice"));
  const auto report = alice.Generate(TinyRequest(20, 2000), absl::InfiniteDuration(),
                                     [](const v1::GenerateResponse&) {});
  EXPECT_EQ(report.status().code(), absl::StatusCode::kDeadlineExceeded) << report.status();
}

}  // namespace
}  // namespace kvship
