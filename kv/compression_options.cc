#include "kv/compression_options.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <span>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "kv/policies.h"

namespace kvship {
namespace {

// No prompt is longer; keeps sums of counts far from overflow.
constexpr size_t kMostTokens = size_t{1} << 30;

template <class E>
struct Choice {
  absl::string_view name;
  E value;
};

constexpr std::array kEncoders = {
    Choice<PageFormat>{"f32", PageFormat::kF32},   Choice<PageFormat>{"f16", PageFormat::kF16},
    Choice<PageFormat>{"bf16", PageFormat::kBf16}, Choice<PageFormat>{"fp8", PageFormat::kFp8},
    Choice<PageFormat>{"int8", PageFormat::kInt8}, Choice<PageFormat>{"int4", PageFormat::kInt4}};
constexpr std::array kWindowEncoders = {Choice<PageFormat>{"f32", PageFormat::kF32},
                                        Choice<PageFormat>{"f16", PageFormat::kF16},
                                        Choice<PageFormat>{"bf16", PageFormat::kBf16}};
constexpr std::array kBools = {Choice<bool>{"true", true}, Choice<bool>{"false", false}};
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

absl::Status CheckName(std::span<const absl::string_view> names, absl::string_view name,
                       absl::string_view value) {
  if (std::find(names.begin(), names.end(), value) != names.end()) return absl::OkStatus();
  return Wrong(name, value, absl::StrCat("one of ", absl::StrJoin(names, ", ")));
}

absl::Status CheckNames(const CompressionOptions& options) {
  std::vector<absl::string_view> scorers = {"keep_all"};
  for (const ScorerTraits& traits : Scorers()) scorers.push_back(traits.name);
  RETURN_IF_ERROR(CheckName(scorers, "scorer", options.scorer));
  RETURN_IF_ERROR(CheckName(Allocators(), "allocator", options.allocator));
  return CheckName(Selectors(), "selector", options.selector);
}

absl::Status SetName(absl::string_view value, std::string* field,
                     const CompressionOptions& options) {
  *field = std::string(value);
  return CheckNames(options);
}

absl::Status SetCount(absl::string_view name, absl::string_view value, size_t* field) {
  uint64_t count = 0;
  if (!absl::SimpleAtoi(value, &count) || count > kMostTokens) {
    return Wrong(name, value, absl::StrCat("a whole number up to ", kMostTokens));
  }
  *field = count;
  return absl::OkStatus();
}

absl::Status SetPosition(absl::string_view name, absl::string_view value,
                         std::optional<int64_t>* field) {
  constexpr int64_t kMost = kMostTokens;
  int64_t position = 0;
  if (!absl::SimpleAtoi(value, &position) || position < -kMost || position > kMost) {
    return Wrong(name, value,
                 absl::StrCat("a position in the prompt up to ", kMost,
                              ", or a negative one that counts from its end"));
  }
  *field = position;
  return absl::OkStatus();
}

absl::Status SetNumber(absl::string_view name, absl::string_view value, double* field) {
  double number = 0;
  if (!absl::SimpleAtod(value, &number) || !std::isfinite(number)) {
    return Wrong(name, value, "a number");
  }
  *field = number;
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

absl::Status SetSeed(absl::string_view value, CompressionOptions* options) {
  if (!absl::SimpleAtoi(value, &options->seed)) {
    return Wrong("seed", value, "a whole number below 2^32");
  }
  return absl::OkStatus();
}

absl::Status SetBudgetTokens(absl::string_view value, CompressionOptions* options) {
  RETURN_IF_ERROR(SetCount("budget_tokens", value, &options->budget_tokens));
  options->budget_ratio = 0;
  return absl::OkStatus();
}

// What can be said of a budget in tokens before the prompt is known.
absl::Status CheckBudget(const CompressionOptions& o) {
  if (o.budget_ratio != 0) return absl::OkStatus();
  const ScorerTraits& traits = TraitsOf(o.scorer);
  const size_t at_start = o.sinks.value_or(traits.sinks);
  size_t at_end = o.recent_tokens.value_or(0);
  const bool votes_at_the_end = !o.observe_begin.has_value() && !o.observe_end.has_value();
  if (!o.recent_tokens && traits.recent == ScorerTraits::Recent::kWindow && votes_at_the_end) {
    at_end = o.window;
  }
  const size_t least = std::max<size_t>(1, at_start + at_end);
  if (o.budget_tokens >= least) return absl::OkStatus();
  return Wrong("budget_tokens", absl::StrCat(o.budget_tokens),
               absl::StrCat("at least ", least, ": what is always kept (sinks ", at_start,
                            " + recent_tokens ", at_end, ", by default the window), and 1"));
}

}  // namespace

absl::Status CompressionOptions::Validate() const {
  RETURN_IF_ERROR(CheckNames(*this));
  if (keeps_all()) return absl::OkStatus();
  if (window == 0) return Wrong("window", "0", "at least 1");
  if (kernel % 2 == 0 || kernel > kMostPoolingKernel) {
    return Wrong("kernel", absl::StrCat(kernel),
                 absl::StrCat("an odd number up to ", kMostPoolingKernel));
  }
  if (budget_ratio != 0 && !(budget_ratio > 0 && budget_ratio <= 1)) {
    return Wrong("budget_ratio", absl::StrCat(budget_ratio), "a number above 0 and up to 1");
  }
  if (future_tokens == 0) return Wrong("future_tokens", "0", "at least 1");
  if (!(beta >= 1)) return Wrong("beta", absl::StrCat(beta), "at least 1");
  if (!(alpha >= 0 && alpha <= 1)) return Wrong("alpha", absl::StrCat(alpha), "0 to 1");
  if (!(mass_target > 0 && mass_target <= 1)) {
    return Wrong("mass_target", absl::StrCat(mass_target), "a number above 0 and up to 1");
  }
  if (chunk_tokens == 0) return Wrong("chunk_tokens", "0", "at least 1");
  if (scorer == "tova" && (observe_begin.has_value() || observe_end.has_value())) {
    return absl::InvalidArgumentError(
        "compression options observe_begin and observe_end are set; wanted neither with scorer "
        "tova, whose last token alone votes");
  }
  RETURN_IF_ERROR(CheckCombination(*this));
  return CheckBudget(*this);
}

CompressionOptions DefaultCompression(size_t head_dim) {
  CompressionOptions options;
  if (head_dim % kValueGroup == 0) options.encoder = PageFormat::kInt4;
  options.budget_ratio = 0.19;
  options.min_tokens = 256;
  options.window = 16;
  options.kernel = 31;
  options.group_reduce = GroupReduce::kMax;
  return options;
}

absl::Status SetCompressionOption(absl::string_view name, absl::string_view value,
                                  CompressionOptions* options) {
  CompressionOptions& o = *options;
  if (name == "scorer") return SetName(value, &o.scorer, o);
  if (name == "allocator") return SetName(value, &o.allocator, o);
  if (name == "selector") return SetName(value, &o.selector, o);
  if (name == "encoder") return SetChoice(kEncoders, name, value, &o.encoder);
  if (name == "window_encoder") {
    return SetChoice(kWindowEncoders, name, value, &o.window_encoder.emplace());
  }
  if (name == "budget_tokens") return SetBudgetTokens(value, options);
  if (name == "budget_ratio") return SetRatio(value, options);
  if (name == "min_tokens") return SetCount(name, value, &o.min_tokens);
  if (name == "sinks") return SetCount(name, value, &o.sinks.emplace());
  if (name == "recent_tokens") return SetCount(name, value, &o.recent_tokens.emplace());
  if (name == "window") return SetCount(name, value, &o.window);
  if (name == "observe_begin") return SetPosition(name, value, &o.observe_begin);
  if (name == "observe_end") return SetPosition(name, value, &o.observe_end);
  if (name == "kernel") return SetCount(name, value, &o.kernel);
  if (name == "pool") return SetChoice(kPools, name, value, &o.pool);
  if (name == "group_reduce") return SetChoice(kGroupReduces, name, value, &o.group_reduce);
  if (name == "group_order") return SetChoice(kGroupOrders, name, value, &o.group_order);
  if (name == "window_reduce") return SetChoice(kWindowReduces, name, value, &o.window_reduce);
  if (name == "softmax") return SetChoice(kSoftmaxes, name, value, &o.softmax);
  if (name == "normalised") return SetChoice(kBools, name, value, &o.normalised);
  if (name == "future_tokens") return SetCount(name, value, &o.future_tokens);
  if (name == "seed") return SetSeed(value, options);
  if (name == "beta") return SetNumber(name, value, &o.beta);
  if (name == "alpha") return SetNumber(name, value, &o.alpha);
  if (name == "mass_target") return SetNumber(name, value, &o.mass_target);
  if (name == "mass_min_tokens") return SetCount(name, value, &o.mass_min_tokens);
  if (name == "chunk_tokens") return SetCount(name, value, &o.chunk_tokens);
  const std::string known =
      absl::StrJoin(CompressionFields({}), ", ",
                    [](std::string* out, const auto& field) { absl::StrAppend(out, field.first); });
  return absl::InvalidArgumentError(absl::StrCat("unknown compression option '", name,
                                                 "'; wanted one of ", known,
                                                 ", budget_ratio, window_encoder, sinks, "
                                                 "recent_tokens, observe_begin, observe_end"));
}

std::vector<std::pair<std::string, std::string>> SplitCompression(absl::string_view text) {
  std::vector<std::pair<std::string, std::string>> options;
  for (absl::string_view pair : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    const std::pair<absl::string_view, absl::string_view> option =
        absl::StrSplit(pair, absl::MaxSplits('=', 1));
    options.emplace_back(absl::StripAsciiWhitespace(option.first),
                         absl::StripAsciiWhitespace(option.second));
  }
  return options;
}

absl::StatusOr<CompressionOptions> ParseCompression(absl::string_view text,
                                                    CompressionOptions defaults) {
  std::set<std::string> seen;
  for (const auto& [name, value] : SplitCompression(text)) {
    if (!seen.insert(name).second) return Wrong(name, value, "each option at most once");
    RETURN_IF_ERROR(SetCompressionOption(name, value, &defaults));
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
  const CompressionOptions& o = options;
  auto number = [](double value) { return absl::StrFormat("%.17g", value); };
  std::vector<std::pair<std::string, std::string>> fields = {
      {"scorer", o.scorer},
      {"allocator", o.allocator},
      {"selector", o.selector},
      {"encoder", NameOf(kEncoders, o.encoder)}};
  auto add = [&](absl::string_view name, std::string value) {
    fields.emplace_back(name, std::move(value));
  };
  if (o.window_encoder) add("window_encoder", NameOf(kWindowEncoders, *o.window_encoder));
  if (o.budget_ratio > 0) {
    add("budget_ratio", number(o.budget_ratio));
  } else {
    add("budget_tokens", absl::StrCat(o.budget_tokens));
  }
  add("min_tokens", absl::StrCat(o.min_tokens));
  if (o.sinks) add("sinks", absl::StrCat(*o.sinks));
  if (o.recent_tokens) add("recent_tokens", absl::StrCat(*o.recent_tokens));
  add("window", absl::StrCat(o.window));
  if (o.observe_begin) add("observe_begin", absl::StrCat(*o.observe_begin));
  if (o.observe_end) add("observe_end", absl::StrCat(*o.observe_end));
  add("kernel", absl::StrCat(o.kernel));
  add("pool", NameOf(kPools, o.pool));
  add("group_reduce", NameOf(kGroupReduces, o.group_reduce));
  add("group_order", NameOf(kGroupOrders, o.group_order));
  add("window_reduce", NameOf(kWindowReduces, o.window_reduce));
  add("softmax", NameOf(kSoftmaxes, o.softmax));
  add("normalised", NameOf(kBools, o.normalised));
  add("future_tokens", absl::StrCat(o.future_tokens));
  add("seed", absl::StrCat(o.seed));
  add("beta", number(o.beta));
  add("alpha", number(o.alpha));
  add("mass_target", number(o.mass_target));
  add("mass_min_tokens", absl::StrCat(o.mass_min_tokens));
  add("chunk_tokens", absl::StrCat(o.chunk_tokens));
  return fields;
}

std::string FormatCompression(const CompressionOptions& options) {
  return absl::StrJoin(CompressionFields(options), ",", absl::PairFormatter("="));
}

}  // namespace kvship
