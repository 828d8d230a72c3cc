#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cmath>
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
  auto logger = spdlog::stderr_logger_mt(program);
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
