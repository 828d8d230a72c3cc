#include "tests/e2e/http_load.h"

#include <httplib.h>
#include <sys/socket.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/random.h"

namespace kvship {
namespace {

using Json = nlohmann::json;

constexpr size_t kPromptTokens = 200;
// The longest time without a byte; while it is queued a stream has a comment each second.
constexpr time_t kReadTimeoutSeconds = 60;
// Of the slow reader: so little memory, and so long for each time it looks there.
constexpr int kSlowBufferBytes = 4 << 10;
constexpr absl::Duration kSlowPause = absl::Milliseconds(10);

constexpr char kEnd[] = "data: [DONE]\n\n";

// Asks for 200 tokens; the likeliest others beside each make more than connections buffer.
std::string RequestTo(const std::string& model) {
  Json prompt = Json::array();
  for (size_t i = 0; i < kPromptTokens; ++i) prompt.push_back(RandomBits(/*seed=*/9, i) % 320);
  return Json({{"model", model},
               {"prompt", std::move(prompt)},
               {"max_tokens", 200},
               {"ignore_eos", true},
               {"temperature", 1},
               {"seed", 9},
               {"logprobs", 20},
               {"stream", true}})
      .dump();
}

// Those of all events that are there as a whole.
std::vector<std::string> TokensOf(const std::string& events) {
  std::vector<std::string> tokens;
  for (absl::string_view event : absl::StrSplit(events, "\n\n")) {
    if (!absl::ConsumePrefix(&event, "data: ")) continue;
    const Json json = Json::parse(event, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded() || json.value("choices", Json::array()).empty()) continue;
    const Json& logprobs = json["choices"][0]["logprobs"];
    if (!logprobs.is_object()) continue;
    for (const Json& token : logprobs["tokens"]) tokens.push_back(token.get<std::string>());
  }
  return tokens;
}

}  // namespace

HttpLoad::HttpLoad(int http_port) : http_port_(http_port) {
  const httplib::Result models = httplib::Client("127.0.0.1", http_port).Get("/v1/models");
  const Json json = Json::parse(models ? models->body : "", nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    NoteFault("/v1/models gives no JSON");
    return;
  }
  request_ = RequestTo(json["data"][0]["id"]);
  const absl::StatusOr<std::string> events = Ask(Reader::kWhole);
  if (!events.ok()) {
    NoteFault(events.status().ToString());
    return;
  }
  answer_bytes_ = events->size();
  answer_ = TokensOf(*events);
}

void HttpLoad::Start() {
  stop_ = false;
  for (const Reader reader : {Reader::kWhole, Reader::kSlow, Reader::kGoesHalfWay}) {
    threads_.emplace_back([this, reader] { Run(reader); });
  }
}

void HttpLoad::Stop() {
  stop_ = true;
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void HttpLoad::Run(Reader reader) {
  while (!stop_) {
    const absl::StatusOr<std::string> events = Ask(reader);
    if (!events.ok()) {
      NoteFault(events.status().ToString());
      continue;
    }
    const std::vector<std::string> tokens = TokensOf(*events);
    const bool is_whole = reader == Reader::kGoesHalfWay || tokens.size() == answer_.size();
    if (tokens.size() > answer_.size() || !is_whole ||
        !std::equal(tokens.begin(), tokens.end(), answer_.begin())) {
      NoteFault(absl::StrCat("a wrong token, or not all: ", tokens.size(), " of ", answer_.size()));
    }
    ++num_answers_[static_cast<size_t>(reader)];
  }
}

absl::StatusOr<std::string> HttpLoad::Ask(Reader reader) const {
  httplib::Client client("127.0.0.1", http_port_);
  client.set_read_timeout(kReadTimeoutSeconds);
  if (reader == Reader::kSlow) {
    client.set_socket_options([](int socket) {
      setsockopt(socket, SOL_SOCKET, SO_RCVBUF, &kSlowBufferBytes, sizeof(kSlowBufferBytes));
    });
  }
  std::string events;
  const bool goes = reader == Reader::kGoesHalfWay;
  httplib::Request request;
  request.method = "POST";
  request.path = "/v1/completions";
  request.set_header("Content-Type", "application/json");
  request.body = request_;
  request.content_receiver = [&](const char* bytes, size_t num_bytes, uint64_t, uint64_t) {
    events.append(bytes, num_bytes);
    if (reader == Reader::kSlow) absl::SleepFor(kSlowPause);
    return !goes || events.size() < answer_bytes_ / 2;
  };
  const httplib::Result result = client.send(request);
  if (goes && result.error() == httplib::Error::Canceled) return events;
  if (!result) return absl::UnavailableError(httplib::to_string(result.error()));
  if (result->status != 200 || !absl::EndsWith(events, kEnd)) {
    return absl::InternalError(
        absl::StrCat("HTTP ", result->status, ", the answer ends with '",
                     events.substr(events.size() - std::min<size_t>(events.size(), 300)), "'"));
  }
  return events;
}

void HttpLoad::NoteFault(const std::string& fault) {
  std::lock_guard lock(mutex_);
  faults_.push_back("over HTTP: " + fault);
}

std::vector<std::string> HttpLoad::faults() const {
  std::lock_guard lock(mutex_);
  return faults_;
}

}  // namespace kvship
