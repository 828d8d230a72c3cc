#include "kv/compression_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "kv/policies.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

TEST(CompressionOptions, TextFormComesBackTheSame) {
  auto options = ParseCompression(
      "scorer=snapkv,encoder=bf16,budget_ratio=0.2425,window=16,kernel=7,pool=max,"
      "group_reduce=none,group_order=before,window_reduce=sum,softmax=prefix,sinks=4,"
      "recent_tokens=20,min_tokens=100");
  ASSERT_TRUE(options.ok()) << options.status();
  auto again = ParseCompression(FormatCompression(*options));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(FormatCompression(*again), FormatCompression(*options));
  EXPECT_EQ(again->budget_ratio, 0.2425);
  EXPECT_EQ(again->pool, Pooling::kMax);
  EXPECT_EQ(again->recent_tokens, 20u);
}

TEST(CompressionOptions, WhatIsNotGivenComesFromTheDefaults) {
  CompressionOptions defaults;
  defaults.budget_tokens = 77;
  auto options = ParseCompression("kernel=5", defaults);
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->budget_tokens, 77u);
  EXPECT_EQ(options->kernel, 5u);
}

TEST(CompressionOptions, ABudgetReplacesTheOtherKindOfBudget) {
  auto ratio = ParseCompression("budget_ratio=0.5");
  ASSERT_TRUE(ratio.ok());
  auto tokens = ParseCompression("budget_tokens=64", *ratio);
  ASSERT_TRUE(tokens.ok());
  EXPECT_EQ(tokens->budget_ratio, 0);
}

TEST(ForPrompt, ARatioComesToMinTokensAtLeast) {
  const CompressionOptions options = *ParseCompression("budget_ratio=0.25,min_tokens=100");
  const CompressionOptions of_short = ForPrompt(options, 399);
  EXPECT_EQ(of_short.budget_ratio, 0);
  EXPECT_EQ(of_short.budget_tokens, 100u);
  EXPECT_EQ(ForPrompt(options, 400).budget_ratio, 0.25);
}

TEST(ForPrompt, ARatioOfAPromptThatIsKeptWholeStays) {
  // min_tokens below the window, which a budget in tokens must hold.
  const CompressionOptions options = *ParseCompression("budget_ratio=0.25,min_tokens=8,window=16");
  EXPECT_EQ(ForPrompt(options, 8).budget_ratio, 0.25);
  EXPECT_EQ(ForPrompt(options, 8).Validate(), absl::OkStatus());
  EXPECT_EQ(ForPrompt(options, 9).budget_tokens, 8u);
}

TEST(ForPrompt, ABudgetInTokensIsAsAsked) {
  const CompressionOptions options = *ParseCompression("budget_tokens=40,min_tokens=100");
  EXPECT_EQ(ForPrompt(options, 399).budget_tokens, 40u);
}

TEST(CompressionOptions, SpacesAroundNamesAndValuesDoNotCount) {
  EXPECT_THAT(SplitCompression(" scorer = snapkv ,, kernel=7,seed = 1=2 , window"),
              ElementsAre(Pair("scorer", "snapkv"), Pair("kernel", "7"), Pair("seed", "1=2"),
                          Pair("window", "")));
}

TEST(CompressionOptions, TheWidestPoolingIsTaken) {
  EXPECT_EQ(ParseCompression("kernel=1023")->kernel, kMostPoolingKernel);
}

struct WrongCase {
  const char* text;
  const char* says;
};

class WrongCompressionOptions : public ::testing::TestWithParam<WrongCase> {};

TEST_P(WrongCompressionOptions, NameFieldValueAndWhatWasWanted) {
  auto options = ParseCompression(GetParam().text);
  EXPECT_EQ(options.status().code(), absl::StatusCode::kInvalidArgument) << options.status();
  EXPECT_THAT(std::string(options.status().message()), HasSubstr(GetParam().says));
}

INSTANTIATE_TEST_SUITE_P(
    All, WrongCompressionOptions,
    ::testing::Values(
        WrongCase{"scorer=magic", "scorer is 'magic'; wanted one of keep_all, snapkv"},
        WrongCase{"kernel=4", "kernel is '4'; wanted an odd number"},
        WrongCase{"kernel=0", "kernel is '0'; wanted an odd number"},
        WrongCase{"kernel=1025", "kernel is '1025'; wanted an odd number up to 1023"},
        WrongCase{"kernel=1073741823", "kernel is '1073741823'; wanted an odd number up to 1023"},
        WrongCase{"window=0", "window is '0'; wanted at least 1"},
        WrongCase{"budget_tokens=31", "budget_tokens is '31'; wanted at least 32: what is always"},
        WrongCase{"budget_tokens=39,sinks=8", "budget_tokens is '39'; wanted at least 40: what"},
        WrongCase{"scorer=tova,budget_tokens=0", "budget_tokens is '0'; wanted at least 1: what"},
        WrongCase{"budget_tokens=-1", "budget_tokens is '-1'; wanted a whole number"},
        WrongCase{"budget_tokens=99999999999999", "wanted a whole number up to"},
        WrongCase{"budget_ratio=nan", "budget_ratio is 'nan'"},
        WrongCase{"budget_ratio=0", "budget_ratio is '0'"},
        WrongCase{"budget_ratio=1.5", "budget_ratio is '1.5'"},
        WrongCase{"budget_ratio=0.5,budget_tokens=64", "are both given"},
        WrongCase{"kernel=5,kernel=7", "each option at most once"},
        WrongCase{"pool=median", "pool is 'median'; wanted one of avg, max, none"},
        WrongCase{"encoder=int3", "encoder is 'int3'"},
        WrongCase{"colour=red",
                  "unknown compression option 'colour'; wanted one of scorer, allocator, selector, "
                  "encoder, window_encoder, budget_tokens, budget_ratio, min_tokens, sinks, "},
        WrongCase{"kernel", "kernel is ''"},
        WrongCase{"alpha=1.5", "alpha is '1.5'; wanted 0 to 1"},
        WrongCase{"beta=0.5", "beta is '0.5'"}, WrongCase{"beta=nan", "beta is 'nan'"},
        WrongCase{"mass_target=0", "mass_target is '0'"},
        WrongCase{"chunk_tokens=0", "chunk_tokens is '0'"}, WrongCase{"seed=-1", "seed is '-1'"},
        WrongCase{"normalised=maybe", "one of true, false"},
        WrongCase{"window_encoder=int4", "window_encoder is 'int4'; wanted one of f32, f16, bf16"},
        WrongCase{"observe_begin=here", "observe_begin is 'here'; wanted a position"},
        WrongCase{"observe_begin=-9223372036854775808",
                  "'-9223372036854775808'; wanted a position"},
        WrongCase{"observe_end=-1073741825", "'-1073741825'; wanted a position"},
        WrongCase{"scorer=tova,observe_end=-5", "wanted neither with scorer tova"}));

// What does not go together is refused with the reason.
INSTANTIATE_TEST_SUITE_P(
    Combinations, WrongCompressionOptions,
    ::testing::Values(
        WrongCase{"scorer=knorm,allocator=ada", "scores of knorm say nothing across heads"},
        WrongCase{"scorer=random,allocator=ada", "scores of random say nothing across heads"},
        WrongCase{"scorer=tova,allocator=mass", "tova keeps one set for all heads of a layer"},
        WrongCase{"scorer=streaming_llm,allocator=ada", "ranks none"},
        WrongCase{"scorer=streaming_llm,selector=chunks", "ranks none"},
        WrongCase{"allocator=ada,selector=chunks", "it keeps one set for all heads of a layer"},
        WrongCase{"group_reduce=none,scorer=keydiff", "wanted with scorer snapkv or h2o"},
        WrongCase{"group_reduce=none,selector=chunks", "wanted with scorer snapkv or h2o"}));

TEST(CompressionOptions, NamesSetInCodeAreCheckedToo) {
  for (std::string CompressionOptions::*field :
       {&CompressionOptions::scorer, &CompressionOptions::allocator,
        &CompressionOptions::selector}) {
    CompressionOptions options;
    options.*field = "magic";
    EXPECT_THAT(std::string(options.Validate().message()), HasSubstr(" is 'magic'; wanted one of"));
  }
}

TEST(CompressionOptions, EveryOtherCombinationIsAllowed) {
  for (const ScorerTraits& scorer : Scorers()) {
    for (absl::string_view allocator : Allocators()) {
      for (absl::string_view selector : Selectors()) {
        const bool ragged = allocator == "ada" || allocator == "mass";
        const bool refused = (ragged && selector == "chunks") || (ragged && !scorer.per_head) ||
                             (!scorer.orders_tokens && selector == "chunks") ||
                             (allocator == "ada" && !scorer.comparable_heads);
        const auto options = ParseCompression(
            absl::StrCat("scorer=", scorer.name, ",allocator=", allocator, ",selector=", selector));
        EXPECT_EQ(options.ok(), !refused) << options.status();
      }
    }
  }
}

}  // namespace
}  // namespace kvship
