#include "engine/rope_scaling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "engine/transformer.h"
#include "tests/engine/edited_model.h"
#include "tests/engine/model_files.h"

namespace kvship {
namespace {

using nlohmann::json;

constexpr RopeScaling::Kind kYarn = RopeScaling::Kind::kYarn;

// What _compute_yarn_parameters() of transformers 5.2.0 gives, every eighth of a head's pairs.
TEST(RopeFrequencies, OfYarnAreThoseOfTransformers) {
  const RopeScaling qwen = {
      .kind = kYarn, .theta = 1e6, .factor = 4, .original_context_tokens = 32768};
  const RopeScaling other = {.kind = kYarn,
                             .theta = 1e4,
                             .factor = 16,
                             .original_context_tokens = 4096,
                             .beta_slow = 2,
                             .attention_factor = 1.5};
  const std::vector<double> wanted[] = {
      {1.0, 0.17782793939113617, 0.03162277862429619, 0.005375321488827467, 0.0006029411451891065,
       4.4456985051510856e-05, 7.905693564680405e-06, 1.405853367941745e-06},
      {1.0, 0.3162277638912201, 0.10000000149011612, 0.026232531294226646, 0.004886363632977009,
       0.00046715460484847426, 6.25000029685907e-05, 1.9764236640185118e-05}};
  const auto of_qwen = RopeFrequencies(qwen, 128), of_other = RopeFrequencies(other, 64);
  ASSERT_TRUE(of_qwen.ok() && of_other.ok());
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_NEAR((*of_qwen)[8 * i] / wanted[0][i], 1, 1e-6) << i;
    EXPECT_NEAR((*of_other)[4 * i] / wanted[1][i], 1, 1e-6) << i;
  }
  EXPECT_NEAR(RopeAttentionFactor(qwen), 1.138629436111989, 1e-12);
  EXPECT_EQ(RopeAttentionFactor(other), 1.5);
}

TEST(RopeFrequencies, NameWhatYarnCannotHave) {
  const RopeScaling yarn = {.kind = kYarn, .factor = 4};
  const auto error_of = [](const RopeScaling& scaling) {
    return std::string(RopeFrequencies(scaling, 64).status().message());
  };
  RopeScaling bad = yarn;
  bad.beta_fast = 0.5;
  EXPECT_EQ(error_of(bad), "RoPE beta_fast is 0.5; wanted more than beta_slow, 1");
  bad = yarn;
  bad.attention_factor = -1;
  EXPECT_EQ(error_of(bad), "RoPE attention_factor is -1; wanted 0.01 to 100");
  bad = yarn;
  bad.theta = 1;
  EXPECT_EQ(error_of(bad), "RoPE theta is 1; wanted another");
  bad = yarn;
  bad.original_context_tokens = 0;
  EXPECT_EQ(error_of(bad),
            "RoPE original_max_position_embeddings is 0; wanted a finite number above 0");
}

TEST(LoadTransformer, ScalesRotaryFrequencies) {
  const auto plain = LoadTransformer(Golden("llama"));
  const auto linear = LoadTransformer(Golden("longchat_linear_rope"));
  const auto llama3 = LoadTransformer(Golden("llama3_rope"));
  ASSERT_TRUE(plain.ok() && linear.ok() && llama3.ok());
  for (size_t i = 0; i < 8; ++i) {
    const double base = std::pow(10000.0, -static_cast<double>(i) / 8);
    EXPECT_NEAR((*plain)->config.rope_frequencies[i], base, 1e-12 * base);
    EXPECT_NEAR((*linear)->config.rope_frequencies[i], base / 8, 1e-12 * base);
    // The formula of modeling_rope_utils.py in its own terms: factor 8, low 1, high 4, original 64.
    const double frequency = std::pow(500000.0, -static_cast<double>(i) / 8);
    const double wavelength = 2 * std::numbers::pi / frequency;
    const double smooth = (64 / wavelength - 1) / 3;
    const double wanted = wavelength > 64       ? frequency / 8
                          : wavelength * 4 < 64 ? frequency
                                                : (1 - smooth) * frequency / 8 + smooth * frequency;
    EXPECT_NEAR((*llama3)->config.rope_frequencies[i], wanted, 1e-12 * wanted);
  }
}

TEST(LoadTransformer, ReadsBothSpellingsOfRopeParameters) {
  EditedModel model("llama3_rope");
  const auto parameters = model.Load();
  ASSERT_TRUE(parameters.ok()) << parameters.status();
  json scaling = model.config["rope_parameters"];
  model.config.erase("rope_parameters");
  model.config["rope_theta"] = scaling["rope_theta"];
  scaling.erase("rope_theta");
  model.config["rope_scaling"] = scaling;
  const auto old_spelling = model.Load();
  ASSERT_TRUE(old_spelling.ok()) << old_spelling.status();
  EXPECT_EQ((*parameters)->identity, (*old_spelling)->identity);
}

TEST(LoadTransformer, ReadsTheOldestSpellingOfLinearScaling) {
  EditedModel model("longchat_linear_rope");
  const auto parameters = model.Load();
  model.config.erase("rope_parameters");
  model.config["rope_scaling"] = {{"type", "linear"}, {"factor", 8}};  // theta is 10000 by default
  const auto old_spelling = model.Load();
  ASSERT_TRUE(parameters.ok() && old_spelling.ok()) << old_spelling.status();
  EXPECT_EQ((*parameters)->identity, (*old_spelling)->identity);
}

// As a checkpoint of transformers 5 may have them where nothing is stretched.
TEST(LoadTransformer, RopeParametersWithoutATypeAreTheDefault) {
  EditedModel model;
  const auto stated = model.Load();
  json& rope = model.config["rope_parameters"];
  rope.erase("rope_type");
  const auto missing = model.Load();
  ASSERT_TRUE(stated.ok() && missing.ok()) << missing.status();
  EXPECT_EQ((*missing)->identity, (*stated)->identity);
  rope["factor"] = 4;
  model.ExpectError(kInvalid, "rope_parameters: rope_type is missing");
  model.config["rope_scaling"] = json::object();
  model.config.erase("rope_parameters");
  model.ExpectError(kInvalid, "rope_scaling: rope_type is missing");
}

TEST(LoadTransformer, RefusesTwoOriginalContextsThatDiffer) {
  for (const char* name : {"qwen3_yarn", "llama3_rope"}) {
    EditedModel model(name);
    const auto inner = model.Load();
    model.config["original_max_position_embeddings"] = 64;
    const auto both = model.Load();
    json& rope = model.config["rope_parameters"];
    rope.erase("original_max_position_embeddings");
    const auto outer = model.Load();
    ASSERT_TRUE(inner.ok() && both.ok() && outer.ok()) << both.status() << outer.status();
    EXPECT_EQ((*both)->identity, (*inner)->identity);
    EXPECT_EQ((*outer)->identity, (*inner)->identity);
    rope["original_max_position_embeddings"] = 32;
    model.ExpectError(kInvalid,
                      "rope_parameters: original_max_position_embeddings is 32; wanted 64, as the "
                      "configuration's own original_max_position_embeddings is");
  }
}

// As vLLM has it; transformers leaves it out.
TEST(LoadTransformer, AttnFactorComesOnTopOfYarns) {
  EditedModel model("qwen3_yarn");
  json& rope = model.config["rope_parameters"];
  rope["attn_factor"] = 0.8782488562869419;  // of DeepSeek-R1-0528-Qwen3-8B, whose factor is 4, too
  const auto deepseek = model.Load();
  ASSERT_TRUE(deepseek.ok()) << deepseek.status();
  EXPECT_NEAR((*deepseek)->config.rope_attention_factor, 1, 1e-12);
  rope["attn_factor"] = 1e3;
  model.ExpectError(kInvalid, "attention_factor is 1138.63; wanted 0.01 to 100");
  rope["attn_factor"] = 1;
  rope["attention_factor"] = 1;
  model.ExpectError(kInvalid, "attn_factor is there beside attention_factor");
}

TEST(LoadTransformer, StretchesTheContextOfYarn) {
  EditedModel model("qwen3_yarn");
  const auto stretched = model.Load();
  ASSERT_TRUE(stretched.ok()) << stretched.status();
  EXPECT_EQ((*stretched)->config.context_tokens, 256u);  // 4 times what it was trained with
  EXPECT_NEAR((*stretched)->config.rope_attention_factor, 1.1386, 1e-4);
  // Only that factor differs: another model all the same.
  model.config["rope_parameters"]["attention_factor"] = 1.2;
  const auto other = model.Load();
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ((*other)->config.rope_frequencies, (*stretched)->config.rope_frequencies);
  EXPECT_NE((*other)->identity, (*stretched)->identity);
  // A checkpoint that says the longer context itself.
  model.config["max_position_embeddings"] = 512;
  EXPECT_EQ((*model.Load())->config.context_tokens, 512u);
}

TEST(LoadTransformer, RefusesAWindowShorterThanTheStretchedContext) {
  EditedModel model("qwen3_yarn");
  model.config["use_sliding_window"] = true;
  model.config["sliding_window"] = 64;
  model.ExpectError(kUnimplemented,
                    "sliding_window is 64; wanted null, or at least the context's 256");
  model.config["sliding_window"] = 256;
  EXPECT_TRUE(model.Load().ok());
}

TEST(LoadTransformer, RefusesTwoScalingsThatDiffer) {
  EditedModel model("qwen3_yarn");
  model.config["rope_scaling"] = model.config["rope_parameters"];
  EXPECT_TRUE(model.Load().ok());
  model.config["rope_scaling"]["factor"] = 2.0;
  model.ExpectError(kInvalid, "rope_scaling is there beside other rope_parameters");
}

TEST(LoadTransformer, RefusesYarnThatIsAnotherFormula) {
  for (const auto& [field, value] :
       std::vector<std::pair<std::string, json>>{{"truncate", false}, {"mscale_all_dim", 1.0}}) {
    EditedModel model("qwen3_yarn");
    model.config["rope_parameters"][field] = value;
    model.ExpectError(kUnimplemented, "rope_parameters: " + field);
  }
  EditedModel longrope("qwen3_yarn");
  longrope.config["rope_parameters"]["rope_type"] = "longrope";
  longrope.ExpectError(kUnimplemented,
                       "rope_type is longrope; wanted default, linear, llama3 or yarn");
}

TEST(LoadTransformer, NamesWhatIsAbsurdInYarn) {
  for (const auto& [field, value, words] : std::vector<std::tuple<std::string, json, std::string>>{
           {"factor", 1e30,
            "factor is 1e+30 and original_max_position_embeddings 64; wanted a product"},
           {"original_max_position_embeddings", uint64_t{1} << 62, "wanted a product of at most"},
           {"attention_factor", 1e300, "attention_factor is 1e+300; wanted 0.01 to 100"},
           {"attention_factor", 1e-3, "attention_factor is 0.001; wanted 0.01 to 100"}}) {
    EditedModel model("qwen3_yarn");
    model.config["rope_parameters"][field] = value;
    model.ExpectError(kInvalid, words);
  }
  for (const bool is_there : {false, true}) {
    GgufWriter gguf = TinyGguf();
    gguf.Name("llama.rope.scaling.type", "yarn");
    if (is_there) gguf.Number("llama.rope.scaling.factor", 0);
    ExpectGgufError(gguf, kInvalid, "llama.rope.scaling.factor is 0 or missing");
  }
}

TEST(LoadTransformer, DividesFrequenciesByTheFactorsOfAGguf) {
  const TempFolder folder;
  const auto plain = LoadTransformer(folder.Write("plain.gguf", TinyGguf().Bytes()));
  const auto scaled = LoadTransformer(folder.Write("scaled.gguf", TinyGguf(true).Bytes()));
  ASSERT_TRUE(plain.ok() && scaled.ok()) << scaled.status();
  const auto& base = (*plain)->config.rope_frequencies;
  const auto& divided = (*scaled)->config.rope_frequencies;
  EXPECT_EQ(divided[3], base[3]);
  EXPECT_EQ(divided[4], base[4] / 8);
}

TEST(LoadTransformer, ReadsTheYarnOfAGguf) {
  const auto yarn = [] {
    return TinyGguf()
        .Name("llama.rope.scaling.type", "yarn")
        .Number("llama.rope.scaling.factor", 4)
        .Count("llama.rope.scaling.original_context_length", 32);
  };
  const TempFolder folder;
  const auto model = LoadTransformer(folder.Write("yarn.gguf", yarn().Bytes()));
  ASSERT_TRUE(model.ok()) << model.status();
  const RopeScaling scaling = {.kind = kYarn, .factor = 4, .original_context_tokens = 32};
  EXPECT_EQ((*model)->config.rope_frequencies, *RopeFrequencies(scaling, 16));
  EXPECT_EQ((*model)->config.rope_attention_factor, RopeAttentionFactor(scaling));
  EXPECT_EQ((*model)->config.context_tokens, 128u);
  const auto times = LoadTransformer(
      folder.Write("times.gguf", yarn().Number("llama.rope.scaling.attn_factor", 2).Bytes()));
  ASSERT_TRUE(times.ok()) << times.status();
  EXPECT_EQ((*times)->config.rope_attention_factor, 2 * RopeAttentionFactor(scaling));
  ExpectGgufError(yarn().Number("llama.rope.scaling.yarn_ext_factor", 0.5f), kUnimplemented,
                  "yarn_ext_factor is 0.5; wanted 1");
  ExpectGgufError(yarn().Number("llama.rope.scaling.yarn_log_multiplier", 0.1f), kUnimplemented,
                  "yarn_log_multiplier is there");
  ExpectGgufError(TinyGguf().Name("llama.rope.scaling.type", "longrope"), kUnimplemented,
                  "rope.scaling.type is longrope; wanted none, linear or yarn");
}

// llama.cpp takes both without yarn, and with it not the second, which converters write.
TEST(LoadTransformer, RefusesAGgufWithAnotherFactorOfAttention) {
  constexpr char kOnTop[] = "llama.rope.scaling.attn_factor",
                 kWhole[] = "llama.rope.scaling.yarn_attn_factor";
  const auto yarn = [] {
    return TinyGguf()
        .Name("llama.rope.scaling.type", "yarn")
        .Number("llama.rope.scaling.factor", 4);
  };
  const TempFolder folder;
  const auto load = [&folder](const GgufWriter& gguf) {
    return LoadTransformer(folder.Write("model.gguf", gguf.Bytes())).status();
  };
  EXPECT_EQ(load(yarn().Number(kWhole, 1.1386294f)), absl::OkStatus());
  EXPECT_EQ(load(yarn().Number(kOnTop, 2).Number(kWhole, 2.2772589f)), absl::OkStatus());
  EXPECT_EQ(load(TinyGguf().Number(kOnTop, 1).Number(kWhole, 1)), absl::OkStatus());
  ExpectGgufError(yarn().Number(kWhole, 0.87824886f), kUnimplemented,
                  "llama.rope.scaling.yarn_attn_factor is 0.878249; wanted none, or 1.13863");
  ExpectGgufError(yarn().Number(kWhole, NAN), kUnimplemented, "yarn_attn_factor is nan");
  ExpectGgufError(TinyGguf().Number(kWhole, 1.5), kUnimplemented,
                  "yarn_attn_factor is 1.5; wanted none, or 1,");
  ExpectGgufError(TinyGguf().Number(kOnTop, 1.5), kUnimplemented,
                  "llama.rope.scaling.attn_factor is 1.5; wanted 1 without yarn");
}

}  // namespace
}  // namespace kvship
