// kvship: the command line of the service.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "base/command_line.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "client/api_token.h"
#include "client/commands.h"
#include "client/request_text.h"
#include "client/stop_flags.h"
#include "rpc/compression.h"
#include "rpc/tls.h"

ABSL_FLAG(std::string, server, "127.0.0.1:50050", "the decode server");
ABSL_FLAG(std::string, api_token_file, "",
          "a file with the token that the server knows this client by, one line of printable ASCII "
          "characters; empty: the environment's KVSHIP_API_TOKEN, where it is set");
ABSL_FLAG(std::string, tls_ca, "",
          "PEM file with the authorities of the server's certificate; empty: plain text");
ABSL_FLAG(std::string, tls_cert, "", "PEM file with this client's certificate, for --tls_ca");
ABSL_FLAG(std::string, tls_key, "", "PEM file with the key of --tls_cert");
ABSL_FLAG(std::string, prompt, "", "the prompt's text");
ABSL_FLAG(std::string, prompt_file, "", "a file with the prompt's text");
ABSL_FLAG(std::string, tokens_file, "", "a file with the prompt as a JSON list of token ids");
ABSL_FLAG(bool, chat, false, "the prompt is a user's message in a chat");
ABSL_FLAG(std::string, system, "", "the chat's system message");
ABSL_FLAG(std::string, compression, "", "scorer=snapkv,budget_tokens=512,...");
ABSL_FLAG(uint32_t, max_tokens, 0, "output tokens, at most; 0: the server's default");
ABSL_FLAG(uint32_t, min_tokens, 0, "output tokens before the answer may end");
ABSL_FLAG(absl::optional<double>, temperature, absl::nullopt, "0 is greedy");
ABSL_FLAG(absl::optional<double>, top_p, absl::nullopt,
          "draw from the likeliest tokens that have this probability together");
ABSL_FLAG(absl::optional<uint32_t>, top_k, absl::nullopt, "draw from so many likeliest tokens");
ABSL_FLAG(absl::optional<double>, min_p, absl::nullopt,
          "draw from tokens at least so many times as likely as the likeliest");
ABSL_FLAG(absl::optional<double>, presence_penalty, absl::nullopt,
          "taken once from the logits of tokens that the output has, -2 to 2");
ABSL_FLAG(absl::optional<double>, frequency_penalty, absl::nullopt,
          "taken from a token's logit each time that the output has it, -2 to 2");
ABSL_FLAG(
    absl::optional<double>, repetition_penalty, absl::nullopt,
    "divides (below 0: multiplies) the logits of tokens that prompt or output has, 0.1 to 10");
ABSL_FLAG(absl::optional<uint64_t>, seed, absl::nullopt, "what the draws depend on");
ABSL_FLAG(std::string, stop, "",
          "output ends before this text; may be given several times, in a --flagfile once");
ABSL_FLAG(std::string, json_schema, "", "the answer is JSON of this schema");
ABSL_FLAG(uint32_t, logprobs, 0, "how many of the likeliest tokens to report, with --json");
ABSL_FLAG(bool, ignore_end, false, "go on when the model says its answer has ended");
ABSL_FLAG(absl::Duration, timeout, absl::InfiniteDuration(), "the request's deadline");
ABSL_FLAG(bool, json, false, "print a JSON record instead of text");
ABSL_FLAG(bool, progress, false, "say what the request waits for even where nobody looks");
ABSL_FLAG(bool, report, false, "generate: a table of what was kept and what took how long");
ABSL_FLAG(bool, report_heads, false, "with --json: what every layer and head kept");
ABSL_FLAG(std::string, report_file, "", "generate: write the JSON record to this file");
ABSL_FLAG(absl::optional<size_t>, requests, absl::nullopt,
          "bench: how many requests, of --trace the first ones; unset: 16, or the whole trace");
ABSL_FLAG(
    size_t, concurrency, 0,
    "bench: so many at a time, the next one when one has ended; 1 without --rate and --trace");
ABSL_FLAG(size_t, connections, 16,
          "bench: connections that requests take in turn; a server, or what stands before several, "
          "may take only so many requests over one");
ABSL_FLAG(double, rate, 0,
          "bench: requests per second on average, whatever became of others; plan: of all nodes "
          "together, 1 where it is 0");
ABSL_FLAG(std::string, trace, "",
          "bench: JSON lines with timestamp (ms), input_length and output_length");
ABSL_FLAG(double, trace_speed, 1, "bench: how many times faster than in the trace");
ABSL_FLAG(
    std::string, prompt_tokens, "",
    "bench: random prompts of N, uniform:LEAST:MOST or lognormal:MEDIAN:SIGMA tokens; plan: N, "
    "16384 where it is empty");
ABSL_FLAG(std::string, output_tokens, "",
          "bench: the same for outputs; to the end of each; plan: N, 512 where it is empty");
ABSL_FLAG(absl::Duration, slo_first_token, absl::InfiniteDuration(),
          "bench: a good request's time to first token, at most");
ABSL_FLAG(absl::Duration, slo_between_tokens, absl::InfiniteDuration(),
          "bench: a good request's mean time between tokens, at most; plan: the longest a decode "
          "step may take");
ABSL_FLAG(std::string, model, "llama-3.1-8b",
          "plan: a GGUF file, a model directory, or the name of a shape");
ABSL_FLAG(std::string, gpu, "h200", "plan: a100, h100, h200 or TFLOPS:GB/S:GB");
ABSL_FLAG(double, link_gbps, 100, "plan: what a node's link carries, in Gbit/s");

namespace kvship {
namespace {

// What `plan` takes where the flags say nothing.
constexpr size_t kPlannedPromptTokens = 16384;
constexpr size_t kPlannedOutputTokens = 512;

// What a bench keeps of each request takes some 200 bytes.
constexpr size_t kMostRequests = 10'000'000;

constexpr size_t kMostConnections = 1024;

constexpr char kUsage[] =
    "kvship COMMAND [flags]\n"
    "  help       this text; --help lists the flags\n"
    "  generate   one answer to --prompt, --prompt-file or --tokens-file\n"
    "  chat       a conversation, line by line\n"
    "  bench      many requests: percentiles of their latencies, goodput, bytes\n"
    "  models     what the server runs\n"
    "  plan       what a load takes of GPUs, memory and links; asks no server";

absl::StatusOr<v1::GenerateRequest> OptionsFromFlags(const std::vector<std::string>& stop) {
  v1::GenerateRequest request;
  v1::SamplingOptions& sampling = *request.mutable_sampling();
  if (const auto value = absl::GetFlag(FLAGS_temperature)) sampling.set_temperature(*value);
  if (const auto value = absl::GetFlag(FLAGS_top_p)) sampling.set_top_p(*value);
  if (const auto value = absl::GetFlag(FLAGS_top_k)) sampling.set_top_k(*value);
  if (const auto value = absl::GetFlag(FLAGS_min_p)) sampling.set_min_p(*value);
  if (const auto value = absl::GetFlag(FLAGS_presence_penalty)) {
    sampling.set_presence_penalty(*value);
  }
  if (const auto value = absl::GetFlag(FLAGS_frequency_penalty)) {
    sampling.set_frequency_penalty(*value);
  }
  if (const auto value = absl::GetFlag(FLAGS_repetition_penalty)) {
    sampling.set_repetition_penalty(*value);
  }
  if (const auto value = absl::GetFlag(FLAGS_seed)) sampling.set_seed(*value);
  request.set_max_tokens(absl::GetFlag(FLAGS_max_tokens));
  request.set_min_tokens(absl::GetFlag(FLAGS_min_tokens));
  for (const std::string& text : stop) {
    RETURN_IF_ERROR(CheckUtf8("--stop", text));
    request.add_stop(text);
  }
  request.set_json_schema(absl::GetFlag(FLAGS_json_schema));
  RETURN_IF_ERROR(CheckUtf8("--json_schema", request.json_schema()));
  request.set_logprobs(absl::GetFlag(FLAGS_logprobs));
  request.set_report_heads(absl::GetFlag(FLAGS_report_heads));
  request.set_ignore_end_tokens(absl::GetFlag(FLAGS_ignore_end));
  const std::string compression = absl::GetFlag(FLAGS_compression);
  RETURN_IF_ERROR(CheckUtf8("--compression", compression));
  ASSIGN_OR_RETURN(*request.mutable_compression(), CompressionFromText(compression));
  return request;
}

absl::Status SetInputFromFlags(v1::GenerateRequest* request) {
  return SetInput({.text = absl::GetFlag(FLAGS_prompt),
                   .text_file = absl::GetFlag(FLAGS_prompt_file),
                   .tokens_file = absl::GetFlag(FLAGS_tokens_file),
                   .chat = absl::GetFlag(FLAGS_chat),
                   .system = absl::GetFlag(FLAGS_system)},
                  request);
}

// Of flags that say the same, by name and whether they are given, none may stand beside `other`.
absl::Status CheckNoneBeside(absl::string_view other,
                             std::initializer_list<std::pair<const char*, bool>> flags) {
  for (const auto& [flag, is_given] : flags) {
    if (!is_given) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " is given with ", other, "; wanted one of them"));
  }
  return absl::OkStatus();
}

bool WantsProgress() { return absl::GetFlag(FLAGS_progress) || isatty(STDERR_FILENO) == 1; }

absl::Status Generate(GenerationClient& client, v1::GenerateRequest request) {
  RETURN_IF_ERROR(SetInputFromFlags(&request));
  const GenerateCommand command = {.request = std::move(request),
                                   .timeout = absl::GetFlag(FLAGS_timeout),
                                   .progress = WantsProgress(),
                                   .report = absl::GetFlag(FLAGS_report),
                                   .json = absl::GetFlag(FLAGS_json),
                                   .report_file = absl::GetFlag(FLAGS_report_file)};
  return command.Run(client);
}

absl::Status Chat(GenerationClient& client, v1::GenerateRequest request) {
  if (const std::string text = absl::GetFlag(FLAGS_system); !text.empty()) {
    RETURN_IF_ERROR(CheckUtf8("--system", text));
    v1::ChatMessage& system = *request.mutable_chat()->add_messages();
    system.set_role("system");
    system.set_content(text);
  }
  const ChatCommand command = {.request = std::move(request),
                               .timeout = absl::GetFlag(FLAGS_timeout),
                               .progress = WantsProgress()};
  return command.Run(client);
}

absl::StatusOr<std::vector<PlannedRequest>> PlanOfTrace(const std::string& trace,
                                                        size_t most_requests) {
  const double speed = absl::GetFlag(FLAGS_trace_speed);
  if (!(speed > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--trace_speed is ", speed, "; wanted a number above 0"));
  }
  RETURN_IF_ERROR(CheckNoneBeside(
      "--trace", {{"--rate", absl::GetFlag(FLAGS_rate) != 0},
                  {"--prompt_tokens", !absl::GetFlag(FLAGS_prompt_tokens).empty()},
                  {"--output_tokens", !absl::GetFlag(FLAGS_output_tokens).empty()}}));
  ASSIGN_OR_RETURN(std::vector<PlannedRequest> plan, ReadTrace(trace, speed));
  plan.resize(std::min(plan.size(), most_requests));
  return plan;
}

absl::StatusOr<std::vector<PlannedRequest>> PlanFromFlags(uint64_t seed) {
  const absl::optional<size_t> requests = absl::GetFlag(FLAGS_requests);
  if (requests.has_value() && (*requests == 0 || *requests > kMostRequests)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--requests is ", *requests, "; wanted a number from 1 to ", kMostRequests));
  }
  if (const std::string trace = absl::GetFlag(FLAGS_trace); !trace.empty()) {
    return PlanOfTrace(trace, requests.value_or(SIZE_MAX));
  }
  const double rate = absl::GetFlag(FLAGS_rate);
  const std::string prompt = absl::GetFlag(FLAGS_prompt_tokens);
  const std::string output = absl::GetFlag(FLAGS_output_tokens);
  LoadOptions load = {.requests_per_second = rate > 0 ? rate : 1, .seed = seed};
  if (requests.has_value()) load.num_requests = *requests;
  if (!(rate >= 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--rate is ", rate, "; wanted a number of requests per second of at least 0"));
  }
  if (!prompt.empty()) {
    ASSIGN_OR_RETURN(load.prompt_tokens, LengthDistribution::Parse("--prompt_tokens", prompt));
  }
  if (!output.empty()) {
    ASSIGN_OR_RETURN(load.output_tokens, LengthDistribution::Parse("--output_tokens", output));
  }
  return PlanPoisson(load);
}

// For flags that bound a time, where InfiniteDuration is no bound.
absl::StatusOr<absl::Duration> BoundFromFlag(absl::string_view name, absl::Duration bound) {
  if (bound > absl::ZeroDuration()) return bound;
  return absl::InvalidArgumentError(
      absl::StrCat("--", name, " is ", absl::FormatDuration(bound), "; wanted a duration above 0"));
}

absl::Status Bench(GenerationClient& client, v1::GenerateRequest request) {
  const bool has_trace = !absl::GetFlag(FLAGS_trace).empty();
  const bool random_prompts = has_trace || !absl::GetFlag(FLAGS_prompt_tokens).empty();
  RETURN_IF_ERROR(
      random_prompts
          ? CheckNoneBeside(has_trace ? "--trace" : "--prompt_tokens",
                            {{"--prompt", !absl::GetFlag(FLAGS_prompt).empty()},
                             {"--prompt-file", !absl::GetFlag(FLAGS_prompt_file).empty()},
                             {"--tokens-file", !absl::GetFlag(FLAGS_tokens_file).empty()}})
          : SetInputFromFlags(&request));
  if (has_trace || !absl::GetFlag(FLAGS_output_tokens).empty()) {
    RETURN_IF_ERROR(CheckNoneBeside(has_trace ? "--trace" : "--output_tokens",
                                    {{"--max_tokens", request.max_tokens() != 0}}));
    request.set_ignore_end_tokens(true);
  }
  const size_t concurrency = absl::GetFlag(FLAGS_concurrency);
  const bool open_loop = has_trace || absl::GetFlag(FLAGS_rate) > 0;
  const uint64_t seed = absl::GetFlag(FLAGS_seed).value_or(0);
  ASSIGN_OR_RETURN(std::vector<PlannedRequest> plan, PlanFromFlags(seed));
  BenchCommand command;
  command.plan = std::move(plan);
  ASSIGN_OR_RETURN(command.targets.first_token,
                   BoundFromFlag("slo_first_token", absl::GetFlag(FLAGS_slo_first_token)));
  ASSIGN_OR_RETURN(command.targets.between_tokens,
                   BoundFromFlag("slo_between_tokens", absl::GetFlag(FLAGS_slo_between_tokens)));
  command.progress = WantsProgress();
  command.json = absl::GetFlag(FLAGS_json);
  command.run.request = std::move(request);
  command.run.seed = seed;
  command.run.timeout = absl::GetFlag(FLAGS_timeout);
  command.run.closed_loop = !open_loop;
  if (concurrency > 0 || !open_loop) {
    command.run.max_in_flight = std::max<size_t>(1, concurrency);
  }
  return command.Run(client);
}

absl::StatusOr<size_t> LengthFromFlag(absl::string_view name, const std::string& text,
                                      size_t otherwise) {
  size_t length = otherwise;
  if (text.empty() ||
      (absl::SimpleAtoi(text, &length) && length > 0 && length <= kMostPlannedTokens)) {
    return length;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "--", name, " is '", text, "'; wanted a number of tokens from 1 to ", kMostPlannedTokens));
}

absl::Status Plan() {
  PlanCommand command = {.model = absl::GetFlag(FLAGS_model),
                         .gpu = absl::GetFlag(FLAGS_gpu),
                         .compression = absl::GetFlag(FLAGS_compression),
                         .json = absl::GetFlag(FLAGS_json)};
  PlannedLoad& load = command.load;
  ASSIGN_OR_RETURN(
      load.prompt_tokens,
      LengthFromFlag("prompt_tokens", absl::GetFlag(FLAGS_prompt_tokens), kPlannedPromptTokens));
  ASSIGN_OR_RETURN(
      load.output_tokens,
      LengthFromFlag("output_tokens", absl::GetFlag(FLAGS_output_tokens), kPlannedOutputTokens));
  const double rate = absl::GetFlag(FLAGS_rate);
  load.requests_per_second = rate == 0 ? 1 : rate;
  load.link_bytes_per_second = absl::GetFlag(FLAGS_link_gbps) * 1e9 / 8;
  ASSIGN_OR_RETURN(const absl::Duration slo,
                   BoundFromFlag("slo_between_tokens", absl::GetFlag(FLAGS_slo_between_tokens)));
  if (slo < absl::InfiniteDuration()) {
    load.most_seconds_per_token = absl::ToDoubleSeconds(slo);
  }
  return command.Run();
}

absl::StatusOr<GenerationClient::Options> ClientOptionsFromFlags() {
  GenerationClient::Options options;
  ASSIGN_OR_RETURN(options.api_token, ReadApiToken(absl::GetFlag(FLAGS_api_token_file)));
  const TlsFiles tls = {.certificate = absl::GetFlag(FLAGS_tls_cert),
                        .key = absl::GetFlag(FLAGS_tls_key),
                        .ca = absl::GetFlag(FLAGS_tls_ca)};
  if (tls.certificate.empty() != tls.key.empty() || (!tls.key.empty() && tls.ca.empty())) {
    return absl::InvalidArgumentError(
        "--tls_cert and --tls_key are not both set with --tls_ca; wanted all of them or --tls_ca");
  }
  if (!tls.ca.empty()) {
    ASSIGN_OR_RETURN(options.credentials, ChannelTls(tls));
  }
  return options;
}

absl::Status Run(const std::string& command, const std::vector<std::string>& stop) {
  if (command == "plan") return Plan();
  RETURN_IF_ERROR(BoundFromFlag("timeout", absl::GetFlag(FLAGS_timeout)).status());
  ASSIGN_OR_RETURN(GenerationClient::Options options, ClientOptionsFromFlags());
  if (command == "bench") {
    options.retries = 0;  // it counts every error
    options.connections = absl::GetFlag(FLAGS_connections);
    if (options.connections == 0 || options.connections > kMostConnections) {
      return absl::InvalidArgumentError(absl::StrCat("--connections is ", options.connections,
                                                     "; wanted 1 to ", kMostConnections));
    }
  }
  GenerationClient client(absl::GetFlag(FLAGS_server), std::move(options));
  if (command == "models") {
    return RunModels(client, absl::GetFlag(FLAGS_timeout), absl::GetFlag(FLAGS_json));
  }
  ASSIGN_OR_RETURN(v1::GenerateRequest request, OptionsFromFlags(stop));
  if (command == "generate") return Generate(client, std::move(request));
  if (command == "chat") return Chat(client, std::move(request));
  if (command == "bench") return Bench(client, std::move(request));
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown command '", command, "'; wanted generate, chat, bench, models, plan or help"));
}

int Main(int argc, char** argv) {
  std::vector<char*> arguments(argv, argv + argc);
  std::vector<std::string> stop = TakeStopFlags(&arguments);
  const std::vector<char*> words =
      ParseCommandLine(kUsage, static_cast<int>(arguments.size()), arguments.data());
  // Of a --flagfile.
  if (std::string text = absl::GetFlag(FLAGS_stop); !text.empty()) stop.push_back(std::move(text));
  if (words.size() == 2 && absl::string_view(words[1]) == "help") {
    std::printf("%s\n", kUsage);
    return 0;
  }
  if (words.size() != 2) {
    std::fprintf(stderr, "%s\n", kUsage);
    return 2;
  }
  StartLog("kvship", LogFormat::kText);  // else warnings would stand among what is printed
  if (const absl::Status status = Run(words[1], stop); !status.ok()) {
    std::fprintf(stderr, "kvship %s: %s\n", words[1], std::string(status.message()).c_str());
    return 1;
  }
  return OutputIsWritten("kvship") ? 0 : 1;
}

}  // namespace
}  // namespace kvship

int main(int argc, char** argv) { return kvship::Main(argc, argv); }
