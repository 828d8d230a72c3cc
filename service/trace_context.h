// TraceContext says to which trace something belongs and which span it is, in the form of W3C's
// Trace Context (https://www.w3.org/TR/trace-context/), which clients and nodes hand on as HTTP
// headers or gRPC metadata of the same names. A value.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace kvship {

inline constexpr char kTraceParent[] = "traceparent";
inline constexpr char kTraceState[] = "tracestate";
// Tells a client which trace its request became a part of.
inline constexpr char kTraceResponse[] = "traceresponse";

struct TraceContext {
  std::string trace_id = {};  // 32 lower-case hex digits; empty: no trace
  std::string span_id = {};   // 16 of them
  bool sampled = false;       // somebody upstream wants the spans to be kept
  std::string state = {};     // other systems' data, handed on as it came

  bool is_set() const { return !trace_id.empty(); }
  // "00-<trace_id>-<span_id>-01"; only of one that is set.
  std::string TraceParent() const;
  // Names and values to be sent with a call; none without a trace.
  std::vector<std::pair<std::string, std::string>> Metadata() const;
};

// Not set where `trace_parent` is empty or breaks a rule: then the trace begins here. A state that
// is too long or has control characters is dropped.
TraceContext ParseTraceContext(absl::string_view trace_parent, absl::string_view trace_state);

// The same from a call's metadata or a request's headers, a multimap of texts. Of several callers
// none is believed; several states are one list.
template <class Headers>
TraceContext TraceContextOf(const Headers& headers) {
  if (headers.count(kTraceParent) != 1) return {};
  const auto text = [](const auto& value) { return absl::string_view(value.data(), value.size()); };
  std::vector<absl::string_view> states;
  const auto [begin, end] = headers.equal_range(kTraceState);
  for (auto at = begin; at != end; ++at) states.push_back(text(at->second));
  return ParseTraceContext(text(headers.find(kTraceParent)->second), absl::StrJoin(states, ","));
}

// A context for a span of its own: in the trace of `parent`, or a new one that is sampled where
// there is none.
TraceContext NewSpan(const TraceContext& parent);

}  // namespace kvship
