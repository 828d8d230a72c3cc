#include "kv/compression_options.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
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

absl::Status SetValue(absl::string_view name, absl::string_view text, size_t& count) {
  uint64_t value = 0;
  if (!absl::SimpleAtoi(text, &value) || value > kMostTokens) {
    return Wrong(name, text, absl::StrCat("a whole number up to ", kMostTokens));
  }
  count = value;
  return absl::OkStatus();
}

absl::Status SetValue(absl::string_view name, absl::string_view text, int64_t& position) {
  constexpr int64_t kMost = kMostTokens;
  if (!absl::SimpleAtoi(text, &position) || position < -kMost || position > kMost) {
    return Wrong(name, text,
                 absl::StrCat("a position in the prompt up to ", kMost,
                              ", or a negative one that counts from its end"));
  }
  return absl::OkStatus();
}

absl::Status SetValue(absl::string_view name, absl::string_view text, double& number) {
  if (absl::SimpleAtod(text, &number) && std::isfinite(number)) return absl::OkStatus();
  return Wrong(name, text, "a number");
}

absl::Status SetValue(absl::string_view name, absl::string_view text, uint32_t& seed) {
  if (absl::SimpleAtoi(text, &seed)) return absl::OkStatus();
  return Wrong(name, text, "a whole number below 2^32");
}

template <class T>
absl::Status SetValue(absl::string_view name, absl::string_view text, std::optional<T>& field) {
  return SetValue(name, text, field.emplace());
}

std::string TextOf(double number) { return absl::StrFormat("%.17g", number); }
std::string TextOf(std::integral auto number) { return absl::StrCat(number); }
template <class T>
std::string TextOf(const std::optional<T>& field) {
  return field ? TextOf(*field) : "";
}

struct Option {
  absl::string_view name;
  absl::Status (*set)(absl::string_view name, absl::string_view text, CompressionOptions& options);
  std::string (*text)(const CompressionOptions& options);  // empty: the option is not set
};

template <auto kField>
constexpr Option Number(absl::string_view name) {
  return {name,
          [](absl::string_view name, absl::string_view text, CompressionOptions& options) {
            return SetValue(name, text, options.*kField);
          },
          [](const CompressionOptions& options) { return TextOf(options.*kField); }};
}

// A field that is named in kv/policies.h.
template <auto kField>
constexpr Option Policy(absl::string_view name) {
  return {name,
          [](absl::string_view, absl::string_view text, CompressionOptions& options) {
            options.*kField = std::string(text);
            return CheckNames(options);
          },
          [](const CompressionOptions& options) { return options.*kField; }};
}

template <auto kField, const auto& kChoices>
constexpr Option OneOf(absl::string_view name) {
  return {name,
          [](absl::string_view name, absl::string_view text, CompressionOptions& options) {
            std::vector<absl::string_view> names;
            for (const auto& choice : kChoices) {
              names.push_back(choice.name);
              if (choice.name == text) options.*kField = choice.value;
            }
            return CheckName(names, name, text);
          },
          [](const CompressionOptions& options) {
            for (const auto& choice : kChoices) {
              if (options.*kField == choice.value) return std::string(choice.name);
            }
            return std::string();
          }};
}

// Of the two budgets the one that counts.
constexpr Option kBudgetTokens = {
    "budget_tokens",
    [](absl::string_view name, absl::string_view text, CompressionOptions& options) {
      options.budget_ratio = 0;
      return SetValue(name, text, options.budget_tokens);
    },
    [](const CompressionOptions& options) {
      return options.budget_ratio > 0 ? "" : TextOf(options.budget_tokens);
    }};
constexpr Option kBudgetRatio = {
    "budget_ratio",
    [](absl::string_view name, absl::string_view text, CompressionOptions& options) {
      double ratio = 0;
      if (!absl::SimpleAtod(text, &ratio) || !(ratio > 0 && ratio <= 1)) {
        return Wrong(name, text, "a number above 0 and up to 1: the share kept");
      }
      options.budget_ratio = ratio;
      return absl::OkStatus();
    },
    [](const CompressionOptions& options) {
      return options.budget_ratio > 0 ? TextOf(options.budget_ratio) : "";
    }};

using Options = CompressionOptions;

// In the order of the text form.
constexpr std::array kOptions = {Policy<&Options::scorer>("scorer"),
                                 Policy<&Options::allocator>("allocator"),
                                 Policy<&Options::selector>("selector"),
                                 OneOf<&Options::encoder, kEncoders>("encoder"),
                                 OneOf<&Options::window_encoder, kWindowEncoders>("window_encoder"),
                                 kBudgetTokens,
                                 kBudgetRatio,
                                 Number<&Options::min_tokens>("min_tokens"),
                                 Number<&Options::sinks>("sinks"),
                                 Number<&Options::recent_tokens>("recent_tokens"),
                                 Number<&Options::window>("window"),
                                 Number<&Options::observe_begin>("observe_begin"),
                                 Number<&Options::observe_end>("observe_end"),
                                 Number<&Options::kernel>("kernel"),
                                 OneOf<&Options::pool, kPools>("pool"),
                                 OneOf<&Options::group_reduce, kGroupReduces>("group_reduce"),
                                 OneOf<&Options::group_order, kGroupOrders>("group_order"),
                                 OneOf<&Options::window_reduce, kWindowReduces>("window_reduce"),
                                 OneOf<&Options::softmax, kSoftmaxes>("softmax"),
                                 OneOf<&Options::normalised, kBools>("normalised"),
                                 Number<&Options::future_tokens>("future_tokens"),
                                 Number<&Options::seed>("seed"),
                                 Number<&Options::beta>("beta"),
                                 Number<&Options::alpha>("alpha"),
                                 Number<&Options::mass_target>("mass_target"),
                                 Number<&Options::mass_min_tokens>("mass_min_tokens"),
                                 Number<&Options::chunk_tokens>("chunk_tokens")};

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

CompressionOptions ForPrompt(CompressionOptions options, size_t prompt_tokens) {
  const auto least = static_cast<double>(options.min_tokens);
  // Those of at most min_tokens are kept whole, with whatever budget.
  if (options.budget_ratio > 0 && prompt_tokens > options.min_tokens &&
      options.budget_ratio * static_cast<double>(prompt_tokens) < least) {
    options.budget_ratio = 0;
    options.budget_tokens = options.min_tokens;
  }
  return options;
}

CompressionOptions DefaultCompression(size_t head_dim) {
  CompressionOptions options;
  if (head_dim % kValueGroup == 0) options.encoder = PageFormat::kInt4;
  options.budget_ratio = 0.19;
  options.min_tokens = 512;
  options.window = 16;
  options.kernel = 31;
  options.group_reduce = GroupReduce::kMax;
  return options;
}

absl::Status SetCompressionOption(absl::string_view name, absl::string_view value,
                                  CompressionOptions* options) {
  for (const Option& option : kOptions) {
    if (option.name == name) return option.set(name, value, *options);
  }
  const std::string known = absl::StrJoin(
      kOptions, ", ",
      [](std::string* out, const Option& option) { absl::StrAppend(out, option.name); });
  return absl::InvalidArgumentError(
      absl::StrCat("unknown compression option '", name, "'; wanted one of ", known));
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
  std::vector<std::pair<std::string, std::string>> fields;
  for (const Option& option : kOptions) {
    std::string text = option.text(options);
    if (!text.empty()) fields.emplace_back(option.name, std::move(text));
  }
  return fields;
}

std::string FormatCompression(const CompressionOptions& options) {
  return absl::StrJoin(CompressionFields(options), ",", absl::PairFormatter("="));
}

}  // namespace kvship
