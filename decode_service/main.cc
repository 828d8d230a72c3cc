// kvship-decode: receives compact KV caches from prefill nodes and streams tokens.
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "base/command_line.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "decode_service/decode_server.h"
#include "service/process.h"

ABSL_FLAG(std::string, model, "", "model: a GGUF file, or a directory with config.json");
ABSL_FLAG(std::string, listen, "127.0.0.1:50050", "address of the gRPC port");
ABSL_FLAG(std::string, http, "127.0.0.1:8000",
          "address of the port with OpenAI's API; empty: none");
ABSL_FLAG(std::string, admin, "127.0.0.1:9090", "address of the port with /metrics and /readyz");
ABSL_FLAG(std::vector<std::string>, prefill, {"dns:///127.0.0.1:50051"},
          "prefill nodes, comma-separated; dns:///HOST:PORT stands for all addresses of HOST");
ABSL_FLAG(std::string, tls_cert, "",
          "PEM file with this server's certificate chain, read again when it changes; empty: plain "
          "text, on loopback only");
ABSL_FLAG(std::string, tls_key, "", "PEM file with the key of --tls_cert");
ABSL_FLAG(std::string, tls_client_ca, "",
          "PEM file with the authorities of clients' certificates; set: gRPC clients need one");
ABSL_FLAG(std::vector<std::string>, allowed_peers, {},
          "names (DNS or URI) of the certificates whose owners may call, comma-separated; empty: "
          "all of --tls_client_ca");
ABSL_FLAG(std::string, prefill_tls_ca, "",
          "PEM file with the authorities of prefill nodes' certificates; set: TLS to them, with "
          "--tls_cert as the client's certificate");
ABSL_FLAG(std::string, api_tokens_file, "",
          "who may send requests: lines NAME:SHA256, of the tokens in hexadecimal, read again when "
          "it changes; empty: whoever reaches a port");
ABSL_FLAG(bool, insecure, false,
          "let other machines reach ports that are plain text or do not know their callers, and "
          "send them prompts in plain text");
ABSL_FLAG(std::string, device, "cpu", "what computes: cpu, cuda (the first GPU) or cuda:N");
ABSL_FLAG(std::string, transport, "grpc",
          "how caches come: grpc, or nccl, from GPU to GPU wherever the prefill node has it too, "
          "unencrypted, and over gRPC where it fails");
ABSL_FLAG(size_t, threads, 0, "threads that compute, at most 1024; 0: one per processor");
ABSL_FLAG(size_t, pool_bytes, size_t{2} << 30,
          "memory for KV caches, taken from the system as it is used; on a GPU, of its memory, at "
          "once");
ABSL_FLAG(std::string, kv_tail, "",
          "number format of generated tokens' keys and values; empty: f16, on a GPU what it "
          "computes in");
ABSL_FLAG(bool, float32, false, "compute on dequantized float32 weights");
ABSL_FLAG(std::string, default_compression, "",
          "what a request gets that says nothing, where it differs from the measured default: "
          "budget_tokens=1024,encoder=f16,...");
ABSL_FLAG(size_t, max_kept_tokens, 0,
          "prompt tokens that a request may keep per KV head, the mean over layers; 0: any number");
ABSL_FLAG(size_t, default_max_tokens, 256, "output tokens of a request that says nothing");
ABSL_FLAG(size_t, max_context_tokens, 0,
          "the longest prompt plus output; 0: what the model was made for");
ABSL_FLAG(size_t, max_batch_sessions, 32, "requests in one decode step, at most");
ABSL_FLAG(size_t, max_waiting_tokens, 1 << 20,
          "prompt tokens of requests that wait for memory or a prefill node, at most; where none "
          "waits, one prompt may have more");
ABSL_FLAG(size_t, max_waiting_requests, 4096,
          "requests that wait for memory or a prefill node, at most");
ABSL_FLAG(size_t, max_unread_tokens, 256,
          "output tokens that wait for a slow reader before its request sits out decode steps");
ABSL_FLAG(size_t, max_client_bytes, 0,
          "bytes of this process's pool that one client's requests may wait for and hold; 0: any "
          "number");
ABSL_FLAG(size_t, max_client_requests, 0,
          "requests of one client at a time, in this process; 0: any number");
ABSL_FLAG(size_t, max_message_bytes, 16 << 20, "the longest request message");
ABSL_FLAG(size_t, max_streams, 1024, "requests of one connection at a time");
ABSL_FLAG(absl::Duration, stuck_timeout, absl::Seconds(60),
          "how long one decode step may take before /readyz says no; after five times as long "
          "/healthz does");
ABSL_FLAG(absl::Duration, stall_timeout, absl::Minutes(1),
          "how long a gRPC client may take nothing of an answer that waits for it");
ABSL_FLAG(absl::Duration, default_deadline, absl::Minutes(10),
          "the longest a request over gRPC may take that brings no deadline");
ABSL_FLAG(size_t, max_http_requests, 256, "requests over HTTP at a time");
ABSL_FLAG(std::string, served_model_name, "",
          "what the API over HTTP calls the model; empty: by the name in its file");
ABSL_FLAG(absl::Duration, http_deadline, absl::Minutes(10),
          "the longest a request over HTTP may take");
ABSL_FLAG(absl::Duration, drain_timeout, absl::Seconds(30),
          "how long running requests may take to end after SIGTERM");
ABSL_FLAG(std::string, otlp_endpoint, "",
          "http://HOST:PORT of a collector that takes traces by OTLP over HTTP; empty: what "
          "OTEL_EXPORTER_OTLP_ENDPOINT in the environment says, or none");
ABSL_FLAG(std::string, log_format, "text", "text or json");

namespace kvship {
namespace {

// Ports, and who may call.
void SetPorts(DecodeServer::Options& options) {
  options.admin = absl::GetFlag(FLAGS_admin);
  options.rpc.listen = absl::GetFlag(FLAGS_listen);
  options.rpc.max_message_bytes = absl::GetFlag(FLAGS_max_message_bytes);
  options.rpc.max_streams = absl::GetFlag(FLAGS_max_streams);
  options.security.tls = {.certificate = absl::GetFlag(FLAGS_tls_cert),
                          .key = absl::GetFlag(FLAGS_tls_key),
                          .ca = absl::GetFlag(FLAGS_tls_client_ca)};
  options.security.allowed_peers = absl::GetFlag(FLAGS_allowed_peers);
  options.security.insecure = absl::GetFlag(FLAGS_insecure);
  options.api_tokens_file = absl::GetFlag(FLAGS_api_tokens_file);
  options.http.listen = absl::GetFlag(FLAGS_http);
  options.http.max_body_bytes = absl::GetFlag(FLAGS_max_message_bytes);
  options.http.max_requests = absl::GetFlag(FLAGS_max_http_requests);
  options.http.served_model_name = absl::GetFlag(FLAGS_served_model_name);
  options.http.deadline = absl::GetFlag(FLAGS_http_deadline);
}

// What requests may ask for, and get where they say nothing.
void SetLimits(DecodeServer::Options& options) {
  options.max_batch_sessions = absl::GetFlag(FLAGS_max_batch_sessions);
  options.max_client_requests = absl::GetFlag(FLAGS_max_client_requests);
  options.calls.default_deadline = absl::GetFlag(FLAGS_default_deadline);
  options.calls.stall_timeout = absl::GetFlag(FLAGS_stall_timeout);
  options.default_compression = absl::GetFlag(FLAGS_default_compression);
  options.queue.max_waiting_tokens = absl::GetFlag(FLAGS_max_waiting_tokens);
  options.queue.max_waiting_requests = absl::GetFlag(FLAGS_max_waiting_requests);
  options.queue.max_client_bytes = absl::GetFlag(FLAGS_max_client_bytes);
  options.generation.max_unread_tokens = absl::GetFlag(FLAGS_max_unread_tokens);
  RequestLimits& limits = options.generation.limits;
  limits.default_max_tokens = absl::GetFlag(FLAGS_default_max_tokens);
  limits.context_tokens = absl::GetFlag(FLAGS_max_context_tokens);
  limits.max_kept_tokens = absl::GetFlag(FLAGS_max_kept_tokens);
}

// What computes, and the form of what it computes.
absl::Status SetDevice(DecodeServer::Options& options) {
  options.num_threads = absl::GetFlag(FLAGS_threads);
  options.pool_bytes = absl::GetFlag(FLAGS_pool_bytes);
  ASSIGN_OR_RETURN(options.device, ParseComputeDevice(absl::GetFlag(FLAGS_device)));
  ASSIGN_OR_RETURN(options.uses_nccl,
                   WantsNccl(absl::GetFlag(FLAGS_transport), options.device.is_gpu));
  if (const std::string name = absl::GetFlag(FLAGS_kv_tail); !name.empty()) {
    const auto tail = ParseCompression(absl::StrCat("encoder=", name));
    if (!tail.ok() || IsQuantized(tail->encoder)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--kv_tail is '", name, "'; wanted f32, f16 or bf16"));
    }
    options.tail_format = tail->encoder;
  }
  if (absl::GetFlag(FLAGS_float32)) options.arithmetic = Arithmetic::kFloat32;
  return absl::OkStatus();
}

absl::StatusOr<DecodeServer::Options> OptionsFromFlags() {
  DecodeServer::Options options;
  options.model_path = absl::GetFlag(FLAGS_model);
  options.prefill_targets = absl::GetFlag(FLAGS_prefill);
  options.prefill_tls_ca = absl::GetFlag(FLAGS_prefill_tls_ca);
  options.stuck_timeout = absl::GetFlag(FLAGS_stuck_timeout);
  options.drain_timeout = absl::GetFlag(FLAGS_drain_timeout);
  options.otlp_endpoint = OtlpEndpoint(absl::GetFlag(FLAGS_otlp_endpoint));
  SetPorts(options);
  SetLimits(options);
  RETURN_IF_ERROR(SetDevice(options));
  return options;
}

absl::Status Serve(StopSignals& signals) {
  ASSIGN_OR_RETURN(const DecodeServer::Options options, OptionsFromFlags());
  ASSIGN_OR_RETURN(const auto server, DecodeServer::Start(options));
  const std::string http =
      server->http_port() == 0 ? "" : absl::StrCat(", HTTP port ", server->http_port());
  LogInfo(absl::StrCat("serving ", server->model().config().name, " on port ", server->port(), http,
                       ", admin port ", server->admin_port()));
  signals.Wait(options.drain_timeout);
  server->Drain();
  return absl::OkStatus();
}

}  // namespace
}  // namespace kvship

int main(int argc, char** argv) {
  const auto arguments = kvship::ParseCommandLine(
      "kvship-decode --model=PATH [--prefill=dns:///HOST:PORT] [flags]", argc, argv);
  return kvship::RunServer("kvship-decode", arguments, absl::GetFlag(FLAGS_log_format),
                           kvship::Serve);
}
