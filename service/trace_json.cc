#include "service/trace_json.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace kvship {
namespace {

using Json = nlohmann::ordered_json;

// OTLP writes 64-bit numbers as text, as JavaScript has no such numbers.
Json AnyValue(const std::string& value) { return {{"stringValue", value}}; }
Json AnyValue(uint64_t value) { return {{"intValue", absl::StrCat(value)}}; }
Json AnyValue(double value) { return {{"doubleValue", value}}; }

Json KeyValue(const std::string& key, Json value) {
  return {{"key", key}, {"value", std::move(value)}};
}

Json AttributesJson(std::span<const TraceSpan::Attribute> attributes) {
  Json list = Json::array();
  for (const TraceSpan::Attribute& attribute : attributes) {
    list.push_back(KeyValue(
        attribute.name, std::visit([](const auto& v) { return AnyValue(v); }, attribute.value)));
  }
  return list;
}

Json SpanJson(const TraceSpan& span, absl::Duration to_wall_clock) {
  constexpr int kError = 2;
  const auto nanoseconds = [to_wall_clock](absl::Time time) {
    return absl::StrCat(absl::ToUnixNanos(time + to_wall_clock));
  };
  Json json = {
      {"traceId", span.context.trace_id},        {"spanId", span.context.span_id},
      {"parentSpanId", span.parent_id},          {"name", span.name},
      {"kind", static_cast<int>(span.kind)},     {"startTimeUnixNano", nanoseconds(span.begin)},
      {"endTimeUnixNano", nanoseconds(span.end)}};
  if (!span.context.state.empty()) json["traceState"] = span.context.state;
  json["attributes"] = AttributesJson(span.attributes);
  if (!span.status.ok()) {
    json["status"] = {{"code", kError}, {"message", absl::StatusCodeToString(span.status.code())}};
  }
  return json;
}

}  // namespace

std::string TraceJson(std::span<const TraceSpan::Attribute> resource,
                      std::span<const TraceSpan> spans, absl::Duration to_wall_clock) {
  Json list = Json::array();
  for (const TraceSpan& span : spans) list.push_back(SpanJson(span, to_wall_clock));
  const Json scope = {{"scope", {{"name", "kvship"}}}, {"spans", std::move(list)}};
  const Json body = {
      {"resourceSpans", Json::array({{{"resource", {{"attributes", AttributesJson(resource)}}},
                                      {"scopeSpans", Json::array({scope})}}})}};
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace kvship
