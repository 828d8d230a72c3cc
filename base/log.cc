#include "base/log.h"

#include <limits.h>
#include <poll.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>

namespace kvship {
namespace {

using nlohmann::ordered_json;

bool g_json = false;  // set once by StartLog, before any other thread runs

std::string Dump(const ordered_json& value) {
  return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

ordered_json ToJson(absl::string_view text) { return std::string(text); }
ordered_json ToJson(uint64_t number) { return number; }
// Nobody reads more than three decimals.
ordered_json ToJson(double number) { return std::round(number * 1000) / 1000; }

// Writes to standard error. Whoever reads it may have stopped; threads that serve must not wait for
// that. So lines that find no room there are lost, and counted in the next one that does.
class StandardErrorSink final : public spdlog::sinks::base_sink<std::mutex> {
 private:
  // A reader may be slow for a moment, but only once.
  static constexpr int kMostWaitMs = 500;

  void sink_it_(const spdlog::details::log_msg& message) override {
    if (!HasRoom(num_lost_ == 0 ? kMostWaitMs : 0)) {
      ++num_lost_;
      return;
    }
    if (num_lost_ > 0) {
      const std::string text =
          "lines of the log lost, as nobody read it: " + std::to_string(num_lost_);
      num_lost_ = 0;
      Write({message.logger_name, spdlog::level::warn, g_json ? Dump(text) : text});
    }
    Write(message);
  }

  void flush_() override {}

  // For PIPE_BUF bytes.
  static bool HasRoom(int wait_ms) {
    pollfd stream = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
    return poll(&stream, 1, wait_ms) == 1;
  }

  void Write(const spdlog::details::log_msg& message) {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    for (size_t at = 0; at < line.size();) {
      if (at > 0 && !HasRoom(kMostWaitMs)) break;
      const ssize_t written =
          write(STDERR_FILENO, line.data() + at, std::min<size_t>(line.size() - at, PIPE_BUF));
      if (written <= 0) break;  // there is nobody to tell
      at += static_cast<size_t>(written);
    }
  }

  size_t num_lost_ = 0;  // since the last line that was written
};

void Log(spdlog::level::level_enum level, absl::string_view message,
         std::initializer_list<LogField> fields) {
  std::string line = g_json ? Dump(ToJson(message)) : std::string(message);
  for (const LogField& field : fields) {
    const std::string value = Dump(std::visit([](auto v) { return ToJson(v); }, field.value));
    line += g_json ? "," + Dump(ToJson(field.name)) + ":" + value
                   : " " + std::string(field.name) + "=" + value;
  }
  spdlog::log(level, "{}", line);
}

}  // namespace

absl::StatusOr<LogFormat> ParseLogFormat(const std::string& text) {
  if (text == "text") return LogFormat::kText;
  if (text == "json") return LogFormat::kJson;
  return absl::InvalidArgumentError("--log_format is '" + text + "'; wanted text or json");
}

void StartLog(const std::string& program, LogFormat format) {
  g_json = format == LogFormat::kJson;
  auto logger = std::make_shared<spdlog::logger>(program, std::make_shared<StandardErrorSink>());
  logger->set_pattern(
      g_json ? R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","program":"%n","message":%v})"
             : "%Y-%m-%d %H:%M:%S.%e %^%L%$ %n: %v");
  spdlog::set_default_logger(std::move(logger));
  spdlog::flush_on(spdlog::level::info);
}

void PrepareLog() { spdlog::default_logger_raw(); }

void LogInfo(absl::string_view message, std::initializer_list<LogField> fields) {
  Log(spdlog::level::info, message, fields);
}
void LogWarning(absl::string_view message, std::initializer_list<LogField> fields) {
  Log(spdlog::level::warn, message, fields);
}
void LogError(absl::string_view message) { Log(spdlog::level::err, message, {}); }

}  // namespace kvship
