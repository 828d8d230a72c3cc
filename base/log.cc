#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <nlohmann/json.hpp>

namespace kvship {
namespace {

bool g_json = false;  // set once by StartLog, before any other thread runs

void Log(spdlog::level::level_enum level, absl::string_view message) {
  const std::string text(message);
  if (g_json) {
    spdlog::log(
        level, "{}",
        nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    spdlog::log(level, "{}", text);
  }
}

}  // namespace

void StartLog(const std::string& program, LogFormat format) {
  g_json = format == LogFormat::kJson;
  auto logger = spdlog::stderr_logger_mt(program);
  logger->set_pattern(
      g_json ? R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","program":"%n","message":%v})"
             : "%Y-%m-%d %H:%M:%S.%e %^%L%$ %n: %v");
  spdlog::set_default_logger(std::move(logger));
  spdlog::flush_on(spdlog::level::info);
}

void LogInfo(absl::string_view message) { Log(spdlog::level::info, message); }
void LogWarning(absl::string_view message) { Log(spdlog::level::warn, message); }
void LogError(absl::string_view message) { Log(spdlog::level::err, message); }

}  // namespace kvship
