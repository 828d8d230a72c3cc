#include "service/trace_context.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/system_random.h"

namespace kvship {
namespace {

constexpr size_t kTraceIdDigits = 32;
constexpr size_t kSpanIdDigits = 16;
// "00-" trace "-" span "-01"
constexpr size_t kTraceParentBytes = 2 + 1 + kTraceIdDigits + 1 + kSpanIdDigits + 1 + 2;
// What everybody has to hand on at least; nobody has to hand on more.
constexpr size_t kMostStateBytes = 512;

bool IsHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsId(absl::string_view text) {
  return IsHex(text) && text.find_first_not_of('0') != absl::string_view::npos;
}

bool IsState(absl::string_view text) {
  return text.size() <= kMostStateBytes &&
         std::all_of(text.begin(), text.end(), absl::ascii_isprint);
}

// 0 stands for no id.
std::string NewId() { return absl::StrFormat("%016x", std::max<uint64_t>(1, SystemRandomBits())); }

}  // namespace

std::string TraceContext::TraceParent() const {
  return absl::StrCat("00-", trace_id, "-", span_id, sampled ? "-01" : "-00");
}

std::vector<std::pair<std::string, std::string>> TraceContext::Metadata() const {
  if (!is_set()) return {};
  std::vector<std::pair<std::string, std::string>> metadata = {{kTraceParent, TraceParent()}};
  if (!state.empty()) metadata.emplace_back(kTraceState, state);
  return metadata;
}

TraceContext ParseTraceContext(absl::string_view trace_parent, absl::string_view trace_state) {
  const absl::string_view version = trace_parent.substr(0, 2);
  // A later version may have more fields behind the ones that are known.
  const bool has_length = trace_parent.size() == kTraceParentBytes ||
                          (trace_parent.size() > kTraceParentBytes && version != "00" &&
                           trace_parent[kTraceParentBytes] == '-');
  if (!has_length || !IsHex(version) || version == "ff") return {};
  const absl::string_view trace_id = trace_parent.substr(3, kTraceIdDigits);
  const absl::string_view span_id = trace_parent.substr(4 + kTraceIdDigits, kSpanIdDigits);
  const absl::string_view flags = trace_parent.substr(kTraceParentBytes - 2, 2);
  for (const size_t dash : {size_t{2}, 3 + kTraceIdDigits, kTraceParentBytes - 3}) {
    if (trace_parent[dash] != '-') return {};
  }
  uint32_t bits = 0;
  if (!IsId(trace_id) || !IsId(span_id) || !IsHex(flags) || !absl::SimpleHexAtoi(flags, &bits)) {
    return {};
  }
  return {.trace_id = std::string(trace_id),
          .span_id = std::string(span_id),
          .sampled = (bits & 1) != 0,
          .state = IsState(trace_state) ? std::string(trace_state) : std::string()};
}

TraceContext NewSpan(const TraceContext& parent) {
  TraceContext context = parent;
  if (!parent.is_set()) context = {.trace_id = NewId() + NewId(), .sampled = true};
  context.span_id = NewId();
  return context;
}

}  // namespace kvship
