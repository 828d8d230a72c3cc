// kvship-prefill: reads prompts and ships compact KV caches to decode nodes.
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "base/command_line.h"
#include "base/status_macros.h"
#include "prefill_service/prefill_program.h"
#include "service/nccl_service.h"
#include "service/process.h"

ABSL_FLAG(std::string, model, "", "GGUF file or model directory (config.json, *.safetensors)");
ABSL_FLAG(std::string, listen, "127.0.0.1:50051", "address of the gRPC port");
ABSL_FLAG(std::string, admin, "127.0.0.1:9051",
          "address of the HTTP port with /metrics, /healthz and /readyz");
ABSL_FLAG(std::string, tls_cert, "",
          "PEM file with this server's certificate chain, read again when it changes; empty: plain "
          "text, on loopback only");
ABSL_FLAG(std::string, tls_key, "", "PEM file with the key of --tls_cert");
ABSL_FLAG(std::string, tls_client_ca, "",
          "PEM file with the authorities of clients' certificates; set: gRPC clients need one");
ABSL_FLAG(std::vector<std::string>, allowed_peers, {},
          "names (DNS or URI) of the certificates whose owners may call, comma-separated; empty: "
          "all of --tls_client_ca");
ABSL_FLAG(bool, insecure, false,
          "let other machines reach ports that are plain text or do not know their callers");
ABSL_FLAG(size_t, threads, 0, "threads that compute, at most 1024; 0: one per processor");
ABSL_FLAG(bool, float32, false, "compute with float32 weights: exact, slower");
ABSL_FLAG(std::string, device, "cpu", "what computes: cpu, cuda (the first GPU) or cuda:N");
ABSL_FLAG(std::string, transport, "grpc",
          "how caches go: grpc, or nccl, from GPU to GPU wherever the decode node has it too, "
          "unencrypted, and over gRPC where it fails");
ABSL_FLAG(size_t, block_tokens, 0,
          "queries per step of the engine; 0: 256 on the CPU, 8192 on a GPU");
ABSL_FLAG(size_t, max_queue_requests, 256,
          "requests admitted at a time, from arrival to the last byte sent");
ABSL_FLAG(size_t, max_queue_tokens, 1 << 20,
          "prompt tokens admitted at a time; those that wait hold 4 bytes each");
ABSL_FLAG(size_t, max_active_requests, 16, "requests that may be ready to run at a time");
ABSL_FLAG(
    size_t, max_active_bytes, size_t{4} << 30,
    "memory that prompts being read may hold, beside the model; one that takes more by itself is "
    "refused");
ABSL_FLAG(size_t, prefix_cache_bytes, 0,
          "memory for beginnings of prompts, which are not read again where another prompt begins "
          "alike; 0: none is kept");
ABSL_FLAG(size_t, max_outbox_bytes, 32 << 20, "unsent bytes at which a request stops computing");
ABSL_FLAG(size_t, max_unsent_bytes, size_t{1} << 30,
          "unsent bytes of all requests at which no prompt begins to be read");
ABSL_FLAG(absl::Duration, go_timeout, absl::Seconds(30), "how long a client may take to say Go");
ABSL_FLAG(
    absl::Duration, stall_timeout, absl::Seconds(30),
    "how long a reader may take for the next message, of up to 1 MiB, while its outbox is full, "
    "or the rest of its cache is left to send");
ABSL_FLAG(absl::Duration, stuck_timeout, absl::Seconds(60),
          "how long one engine step may take before /readyz says no; after five times as long "
          "/healthz does");
ABSL_FLAG(absl::Duration, drain_timeout, absl::Seconds(30),
          "how long running requests may take to end after SIGTERM");
ABSL_FLAG(std::string, otlp_endpoint, "",
          "http://HOST:PORT of a collector that takes traces by OTLP over HTTP; empty: what "
          "OTEL_EXPORTER_OTLP_ENDPOINT in the environment says, or none");
ABSL_FLAG(std::string, log_format, "text", "text or json");

namespace kvship {
namespace {

absl::StatusOr<PrefillProgramOptions> OptionsFromFlags() {
  PrefillProgramOptions options;
  options.model = absl::GetFlag(FLAGS_model);
  options.listen = absl::GetFlag(FLAGS_listen);
  options.admin = absl::GetFlag(FLAGS_admin);
  options.security.tls = {.certificate = absl::GetFlag(FLAGS_tls_cert),
                          .key = absl::GetFlag(FLAGS_tls_key),
                          .ca = absl::GetFlag(FLAGS_tls_client_ca)};
  options.security.allowed_peers = absl::GetFlag(FLAGS_allowed_peers);
  options.security.insecure = absl::GetFlag(FLAGS_insecure);
  options.num_threads = absl::GetFlag(FLAGS_threads);
  options.float32 = absl::GetFlag(FLAGS_float32);
  ASSIGN_OR_RETURN(options.device, ParseComputeDevice(absl::GetFlag(FLAGS_device)));
  ASSIGN_OR_RETURN(options.uses_nccl,
                   WantsNccl(absl::GetFlag(FLAGS_transport), options.device.is_gpu));
  options.block_tokens = absl::GetFlag(FLAGS_block_tokens);
  options.prefix_cache_bytes = absl::GetFlag(FLAGS_prefix_cache_bytes);
  options.scheduler.max_queue_requests = absl::GetFlag(FLAGS_max_queue_requests);
  options.scheduler.max_queue_tokens = absl::GetFlag(FLAGS_max_queue_tokens);
  options.scheduler.max_active_requests = absl::GetFlag(FLAGS_max_active_requests);
  options.scheduler.max_active_bytes = absl::GetFlag(FLAGS_max_active_bytes);
  options.scheduler.max_outbox_bytes = absl::GetFlag(FLAGS_max_outbox_bytes);
  options.scheduler.max_unsent_bytes = absl::GetFlag(FLAGS_max_unsent_bytes);
  options.scheduler.go_timeout = absl::GetFlag(FLAGS_go_timeout);
  options.scheduler.stall_timeout = absl::GetFlag(FLAGS_stall_timeout);
  options.scheduler.stuck_timeout = absl::GetFlag(FLAGS_stuck_timeout);
  options.otlp_endpoint = OtlpEndpoint(absl::GetFlag(FLAGS_otlp_endpoint));
  options.drain_timeout = absl::GetFlag(FLAGS_drain_timeout);
  return options;
}

absl::Status Serve(StopSignals& signals) {
  ASSIGN_OR_RETURN(const PrefillProgramOptions options, OptionsFromFlags());
  return RunPrefillProgram(options, signals);
}

}  // namespace
}  // namespace kvship

int main(int argc, char** argv) {
  const auto arguments =
      kvship::ParseCommandLine("kvship-prefill --model=PATH [flags]", argc, argv);
  return kvship::RunServer("kvship-prefill", arguments, absl::GetFlag(FLAGS_log_format),
                           kvship::Serve);
}
