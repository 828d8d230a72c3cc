#include "kv/compression_options.h"

#include <array>
#include <cmath>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace kvship {
namespace {

// No prompt is longer; keeps sums of counts far from overflow.
constexpr size_t kMostTokens = size_t{1} << 30;

template <class E>
struct Choice {
  absl::string_view name;
  E value;
};

constexpr std::array kEncoders = {Choice<PageFormat>{"f32", PageFormat::kF32},
                                  Choice<PageFormat>{"f16", PageFormat::kF16},
                                  Choice<PageFormat>{"bf16", PageFormat::kBf16}};
constexpr std::array kPools = {Choice<Pooling>{"avg", Pooling::kAverage},
                               Choice<Pooling>{"max", Pooling::kMax},
                               Choice<Pooling>{"none", Pooling::kNone}};
constexpr std::array kGroupReduces = {
    Choice<GroupReduce>{"mean", GroupReduce::kMean}, Choice<GroupReduce>{"max", GroupReduce::kMax},
    Choice<GroupReduce>{"sum", GroupReduce::kSum}, Choice<GroupReduce>{"none", GroupReduce::kNone}};
constexpr std::array kGroupOrders = {Choice<GroupOrder>{"after", GroupOrder::kAfterPooling},
                                     Choice<GroupOrder>{"before", GroupOrder::kBeforePooling}};
constexpr std::array kWindowReduces = {Choice<WindowReduce>{"mean", WindowReduce::kMean},
                                       Choice<WindowReduce>{"sum", WindowReduce::kSum}};
constexpr std::array kSoftmaxes = {Choice<SoftmaxOver>{"all", SoftmaxOver::kAll},
                                   Choice<SoftmaxOver>{"prefix", SoftmaxOver::kPrefix}};
constexpr std::array<absl::string_view, 2> kScorers = {"snapkv", "keep_all"};
constexpr std::array<absl::string_view, 1> kAllocators = {"uniform"};
constexpr std::array<absl::string_view, 1> kSelectors = {"tokens"};

absl::Status Wrong(absl::string_view name, absl::string_view value, absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat("compression option ", name, " is '", value, "'; wanted ", wanted));
}

template <class E, size_t N>
absl::Status SetChoice(const std::array<Choice<E>, N>& choices, absl::string_view name,
                       absl::string_view value, E* field) {
  for (const Choice<E>& choice : choices) {
    if (choice.name == value) {
      *field = choice.value;
      return absl::OkStatus();
    }
  }
  const std::string names = absl::StrJoin(
      choices, ", ",
      [](std::string* out, const Choice<E>& choice) { absl::StrAppend(out, choice.name); });
  return Wrong(name, value, absl::StrCat("one of ", names));
}

template <class E, size_t N>
std::string NameOf(const std::array<Choice<E>, N>& choices, E value) {
  for (const Choice<E>& choice : choices) {
    if (choice.value == value) return std::string(choice.name);
  }
  return "";
}

template <size_t N>
absl::Status SetName(const std::array<absl::string_view, N>& names, absl::string_view name,
                     absl::string_view value, std::string* field) {
  for (absl::string_view known : names) {
    if (known == value) {
      *field = std::string(value);
      return absl::OkStatus();
    }
  }
  return Wrong(name, value, absl::StrCat("one of ", absl::StrJoin(names, ", ")));
}

absl::Status SetCount(absl::string_view name, absl::string_view value, size_t* field) {
  uint64_t count = 0;
  if (!absl::SimpleAtoi(value, &count) || count > kMostTokens) {
    return Wrong(name, value, absl::StrCat("a whole number up to ", kMostTokens));
  }
  *field = count;
  return absl::OkStatus();
}

absl::Status SetRatio(absl::string_view value, CompressionOptions* options) {
  double ratio = 0;
  if (!absl::SimpleAtod(value, &ratio) || !(ratio > 0 && ratio <= 1)) {
    return Wrong("budget_ratio", value, "a number above 0 and up to 1: the share kept");
  }
  options->budget_ratio = ratio;
  return absl::OkStatus();
}

absl::Status SetBudgetTokens(absl::string_view value, CompressionOptions* options) {
  RETURN_IF_ERROR(SetCount("budget_tokens", value, &options->budget_tokens));
  options->budget_ratio = 0;
  return absl::OkStatus();
}

}  // namespace

size_t CompressionOptions::effective_recent_tokens() const {
  if (keeps_all()) return 0;
  return recent_tokens.value_or(window);
}

absl::Status CompressionOptions::Validate() const {
  if (keeps_all()) return absl::OkStatus();
  if (window == 0) return Wrong("window", "0", "at least 1");
  if (kernel % 2 == 0) return Wrong("kernel", absl::StrCat(kernel), "an odd number");
  if (budget_ratio != 0) {
    if (!(budget_ratio > 0 && budget_ratio <= 1)) {
      return Wrong("budget_ratio", absl::StrCat(budget_ratio), "a number above 0 and up to 1");
    }
    return absl::OkStatus();
  }
  const size_t always_kept = sinks + effective_recent_tokens();
  if (budget_tokens <= always_kept) {
    return Wrong(
        "budget_tokens", absl::StrCat(budget_tokens),
        absl::StrCat("more than the ", always_kept, " tokens always kept (sinks ", sinks,
                     " + recent_tokens ", effective_recent_tokens(), ", by default the window)"));
  }
  return absl::OkStatus();
}

absl::Status SetCompressionOption(absl::string_view name, absl::string_view value,
                                  CompressionOptions* options) {
  CompressionOptions& o = *options;
  if (name == "scorer") return SetName(kScorers, name, value, &o.scorer);
  if (name == "allocator") return SetName(kAllocators, name, value, &o.allocator);
  if (name == "selector") return SetName(kSelectors, name, value, &o.selector);
  if (name == "encoder") return SetChoice(kEncoders, name, value, &o.encoder);
  if (name == "budget_tokens") return SetBudgetTokens(value, options);
  if (name == "budget_ratio") return SetRatio(value, options);
  if (name == "min_tokens") return SetCount(name, value, &o.min_tokens);
  if (name == "sinks") return SetCount(name, value, &o.sinks);
  if (name == "recent_tokens") return SetCount(name, value, &o.recent_tokens.emplace());
  if (name == "window") return SetCount(name, value, &o.window);
  if (name == "kernel") return SetCount(name, value, &o.kernel);
  if (name == "pool") return SetChoice(kPools, name, value, &o.pool);
  if (name == "group_reduce") return SetChoice(kGroupReduces, name, value, &o.group_reduce);
  if (name == "group_order") return SetChoice(kGroupOrders, name, value, &o.group_order);
  if (name == "window_reduce") return SetChoice(kWindowReduces, name, value, &o.window_reduce);
  if (name == "softmax") return SetChoice(kSoftmaxes, name, value, &o.softmax);
  const std::string known =
      absl::StrJoin(CompressionFields({}), ", ",
                    [](std::string* out, const auto& field) { absl::StrAppend(out, field.first); });
  return absl::InvalidArgumentError(absl::StrCat("unknown compression option '", name,
                                                 "'; wanted one of ", known, ", budget_ratio"));
}

absl::StatusOr<CompressionOptions> ParseCompression(absl::string_view text,
                                                    CompressionOptions defaults) {
  std::set<std::string> seen;
  for (absl::string_view pair : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    const std::pair<absl::string_view, absl::string_view> option =
        absl::StrSplit(pair, absl::MaxSplits('=', 1));
    const std::string name(absl::StripAsciiWhitespace(option.first));
    if (!seen.insert(name).second) {
      return Wrong(name, option.second, "each option at most once");
    }
    RETURN_IF_ERROR(
        SetCompressionOption(name, absl::StripAsciiWhitespace(option.second), &defaults));
  }
  if (seen.count("budget_tokens") && seen.count("budget_ratio")) {
    return absl::InvalidArgumentError(
        "compression options budget_tokens and budget_ratio are both given; wanted one of them");
  }
  RETURN_IF_ERROR(defaults.Validate());
  return defaults;
}

std::vector<std::pair<std::string, std::string>> CompressionFields(
    const CompressionOptions& options) {
  const auto budget = options.budget_ratio > 0
                          ? std::pair<std::string, std::string>(
                                "budget_ratio", absl::StrFormat("%.17g", options.budget_ratio))
                          : std::pair<std::string, std::string>(
                                "budget_tokens", absl::StrCat(options.budget_tokens));
  return {{"scorer", options.scorer},
          {"allocator", options.allocator},
          {"selector", options.selector},
          {"encoder", NameOf(kEncoders, options.encoder)},
          budget,
          {"min_tokens", absl::StrCat(options.min_tokens)},
          {"sinks", absl::StrCat(options.sinks)},
          {"recent_tokens", absl::StrCat(options.effective_recent_tokens())},
          {"window", absl::StrCat(options.window)},
          {"kernel", absl::StrCat(options.kernel)},
          {"pool", NameOf(kPools, options.pool)},
          {"group_reduce", NameOf(kGroupReduces, options.group_reduce)},
          {"group_order", NameOf(kGroupOrders, options.group_order)},
          {"window_reduce", NameOf(kWindowReduces, options.window_reduce)},
          {"softmax", NameOf(kSoftmaxes, options.softmax)}};
}

std::string FormatCompression(const CompressionOptions& options) {
  return absl::StrJoin(CompressionFields(options), ",", absl::PairFormatter("="));
}

}  // namespace kvship
