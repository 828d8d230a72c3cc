#include "decode_service/http/openai_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/random.h"
#include "decode_service/grammar/json_schema.h"
#include "tests/decode_service/http/expect_refused.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

constexpr size_t kContextTokens = 1000;
constexpr uint64_t kDrawnSeed = 77;

// A body that is right but for `fields`, which begin with a comma.
std::string Chat(const std::string& fields) {
  return absl::StrCat(R"({"model":"m","messages":[{"role":"user","content":"Hi"}])", fields, "}");
}
std::string Completion(const std::string& fields) {
  return absl::StrCat(R"({"model":"m","prompt":"Hi")", fields, "}");
}

absl::StatusOr<OpenAiRequest> ReadChat(const std::string& body) {
  return ReadOpenAiRequest(OpenAiApi::kChat, body, kContextTokens, kDrawnSeed);
}
absl::StatusOr<OpenAiRequest> ReadCompletion(const std::string& body) {
  return ReadOpenAiRequest(OpenAiApi::kCompletions, body, kContextTokens, kDrawnSeed);
}

TEST(OpenAiRequestTest, WhatIsLeftOutHasOpenAisDefaults) {
  const auto request = ReadChat(Chat(""));
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->model, "m");
  EXPECT_EQ(request->generate.sampling().temperature(), 1);
  EXPECT_EQ(request->generate.sampling().top_p(), 1);
  EXPECT_EQ(request->generate.sampling().seed(), kDrawnSeed);
  EXPECT_EQ(request->generate.max_tokens(), 0u);  // the server's default
  EXPECT_EQ(request->generate.logprobs(), 0u);
  EXPECT_FALSE(request->stream || request->include_usage || request->report);
  EXPECT_EQ(request->timeout, absl::InfiniteDuration());
}

TEST(OpenAiRequestTest, EveryFieldArrives) {
  const auto request = ReadChat(
      Chat(R"(,"temperature":0.5,"top_p":0.9,"top_k":40,"seed":-1,"max_completion_tokens":7,
               "min_p":0.05,"presence_penalty":1.5,"frequency_penalty":-2,"repetition_penalty":1.05,"logit_bias":{"5":-100,"70":0.5},
               "stop":["a","b"],"stream":true,"stream_options":{"include_usage":true},
               "logprobs":true,"top_logprobs":3,"user":"u","ignore_eos":true,"min_tokens":5,"cache_salt":"s",
               "kvship":{"report":true,"timeout_ms":250,"compression":"scorer=snapkv,budget_tokens=512"})"));
  ASSERT_TRUE(request.ok()) << request.status();
  const v1::GenerateRequest& generate = request->generate;
  EXPECT_EQ(generate.sampling().temperature(), 0.5);
  EXPECT_EQ(generate.sampling().top_p(), 0.9);
  EXPECT_EQ(generate.sampling().top_k(), 40u);
  EXPECT_EQ(generate.sampling().min_p(), 0.05);
  EXPECT_EQ(generate.sampling().seed(), UINT64_MAX);
  EXPECT_EQ(generate.sampling().presence_penalty(), 1.5);
  EXPECT_EQ(generate.sampling().repetition_penalty(), 1.05);
  EXPECT_EQ(generate.sampling().frequency_penalty(), -2);
  EXPECT_THAT(generate.sampling().logit_bias(),
              UnorderedElementsAre(Pair(5, -100.0f), Pair(70, 0.5f)));
  EXPECT_EQ(generate.max_tokens(), 7u);
  EXPECT_EQ(generate.min_tokens(), 5u);
  EXPECT_EQ(generate.cache_salt(), "s");
  EXPECT_THAT(generate.stop(), ElementsAre("a", "b"));
  EXPECT_EQ(generate.logprobs(), 3u);
  EXPECT_TRUE(generate.ignore_end_tokens());
  EXPECT_EQ(generate.compression().budget_tokens(), 512u);
  EXPECT_TRUE(request->stream && request->include_usage && request->report);
  EXPECT_EQ(request->timeout, absl::Milliseconds(250));
}

TEST(OpenAiRequestTest, NullIsAFieldLeftOut) {
  EXPECT_TRUE(ReadChat(Chat(R"(,"stop":null,"tools":null,"n":null,"never_heard_of":null)")).ok());
}

TEST(OpenAiRequestTest, MessagesMayBeListsOfTextParts) {
  const auto request = ReadChat(
      R"({"model":"m","messages":[{"role":"developer","content":"Be kind."},
          {"role":"user","content":[{"type":"text","text":"One"},{"type":"text","text":"two"}]}]})");
  ASSERT_TRUE(request.ok()) << request.status();
  const auto& messages = request->prompts[0].chat().messages();
  EXPECT_EQ(messages[0].role(), "system");
  EXPECT_EQ(messages[1].content(), "One\ntwo");
}

TEST(OpenAiRequestTest, WhetherToThinkIsAnArgumentOfTheTemplate) {
  const auto thinking = [](const std::string& value) {
    return ReadChat(Chat(R"(,"chat_template_kwargs":{"enable_thinking":)" + value + "}"));
  };
  EXPECT_FALSE(thinking("false")->Choice(0).chat().thinking());
  EXPECT_TRUE(thinking("true")->Choice(0).chat().thinking());
  EXPECT_FALSE(thinking("null")->Choice(0).chat().has_thinking());
  ExpectRefused(thinking("0"), "chat_template_kwargs.enable_thinking", "0; wanted true or false");
  ExpectRefused(ReadChat(Chat(R"(,"chat_template_kwargs":{"tone":"kind"})")),
                "chat_template_kwargs.tone", "tone");
  ExpectRefused(ReadCompletion(Completion(R"(,"chat_template_kwargs":{})")), "chat_template_kwargs",
                "chat_template_kwargs");
}

TEST(OpenAiRequestTest, WrongMessagesAreNamed) {
  const auto read = [](const std::string& messages) {
    return ReadChat(absl::StrCat(R"({"model":"m","messages":)", messages, "}"));
  };
  ExpectRefused(read("[]"), "messages", "at least one message");
  ExpectRefused(read("[7]"), "messages[0]", "messages[0] is 7; wanted an object");
  ExpectRefused(read(R"([{"role":"robot","content":""}])"), "messages[0].role", R"("robot")");
  ExpectRefused(read(R"([{"role":"user"}])"), "messages[0].content", "missing");
  ExpectRefused(read(R"([{"role":"user","content":"x","name":7}])"), "messages[0].name",
                "name is 7; wanted a string");
  ExpectRefused(read(R"([{"role":"user","content":[{"type":"image_url","image_url":{}}]}])"),
                "messages[0].content[0].type", "image_url");
}

TEST(OpenAiRequestTest, APromptIsTextOrTokenIdsOrAListOfThem) {
  const auto read = [](const std::string& prompt) {
    return ReadCompletion(absl::StrCat(R"({"model":"m","prompt":)", prompt, "}"));
  };
  for (const char* prompt : {R"("Hi")", R"(["Hi"])"}) {
    ASSERT_EQ(read(prompt)->num_choices(), 1u);
    EXPECT_EQ(read(prompt)->Choice(0).prompt(), "Hi");
  }
  for (const char* prompt : {"[1,2]", "[[1,2]]"}) {
    ASSERT_EQ(read(prompt)->num_choices(), 1u);
    EXPECT_THAT(read(prompt)->Choice(0).tokens().ids(), ElementsAre(1, 2));
  }
  const auto both = read(R"(["a",[7]])");
  ASSERT_EQ(both->num_choices(), 2u);
  EXPECT_EQ(both->Choice(0).prompt(), "a");
  EXPECT_THAT(both->Choice(1).tokens().ids(), ElementsAre(7));
  ExpectRefused(read(R"(["a",5])"), "prompt[1]", "5; wanted a string or a list of token ids");
  ExpectRefused(read("[[1],[2,-3]]"), "prompt[1][1]", "-3");
  ExpectRefused(read("[[-3]]"), "prompt[0][0]", "-3");
  ExpectRefused(read("[1,-2]"), "prompt[1]", "-2");
  ExpectRefused(read("[1.5]"), "prompt[0]", "1.5");
  ExpectRefused(read("[4294967296]"), "prompt[0]", "4294967296");
  ExpectRefused(read("7"), "prompt", "a string or a list of token ids");
  ExpectRefused(ReadCompletion(R"({"model":"m"})"), "prompt", "missing");
}

TEST(OpenAiRequestTest, ChoicesOfAPromptDifferInTheirSeeds) {
  const auto request = ReadCompletion(
      R"({"model":"m","prompt":["a","b"],"n":2,"best_of":2,"seed":5,"max_tokens":3})");
  ASSERT_TRUE(request.ok()) << request.status();
  ASSERT_EQ(request->num_choices(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    const v1::GenerateRequest choice = request->Choice(i);
    EXPECT_EQ(choice.prompt(), i < 2 ? "a" : "b");
    EXPECT_EQ(choice.sampling().seed(), 5 + i % 2);
    EXPECT_EQ(choice.max_tokens(), 3u);
  }
  EXPECT_EQ(ReadChat(Chat(R"(,"n":2)"))->Choice(1).chat().messages(0).content(), "Hi");
}

TEST(OpenAiRequestTest, ChoicesAreBounded) {
  const auto read = [](size_t num_prompts, int n) {
    return ReadCompletion(absl::StrCat(
        R"({"model":"m","prompt":[)",
        absl::StrJoin(std::vector<std::string>(num_prompts, "\"a\""), ","), R"(],"n":)", n, "}"));
  };
  EXPECT_EQ(read(128, 1)->num_choices(), 128u);
  EXPECT_EQ(read(2, 64)->num_choices(), 128u);
  ExpectRefused(read(129, 1), "prompt", "wanted at most 128 prompts");
  ExpectRefused(read(2, 65), "n", "n is 65; wanted at most 128 choices of all prompts together");
  ExpectRefused(read(1, 129), "n", "n is 129; wanted an integer from 1 to 128");
  ExpectRefused(read(1, 0), "n", "n is 0; wanted an integer from 1");
  ExpectRefused(ReadCompletion(Completion(R"(,"n":2,"best_of":3)")), "best_of", "it left out or 2");
  ExpectRefused(ReadChat(Chat(R"(,"n":2,"kvship":{"report":true})")), "kvship.report",
                "it left out where there is more than one choice");
}

TEST(OpenAiRequestTest, LogprobsOfNoOtherTokensStillAskForTheDrawnOnes) {
  EXPECT_EQ(ReadChat(Chat(R"(,"logprobs":true)"))->num_top_logprobs, 0u);
  EXPECT_EQ(ReadChat(Chat(R"(,"logprobs":true)"))->generate.logprobs(), 1u);
  EXPECT_EQ(ReadCompletion(Completion(R"(,"logprobs":0)"))->generate.logprobs(), 1u);
  EXPECT_EQ(ReadCompletion(Completion(R"(,"logprobs":5)"))->generate.logprobs(), 5u);
  EXPECT_FALSE(ReadChat(Chat(R"(,"logprobs":false)"))->num_top_logprobs.has_value());
}

TEST(OpenAiRequestTest, WrongValuesAreNamedWithFieldValueAndWhatWasWanted) {
  ExpectRefused(ReadChat(Chat(R"(,"temperature":"warm")")), "temperature",
                R"(temperature is "warm"; wanted a number)");
  ExpectRefused(ReadChat(Chat(R"(,"temperature":-1)")), "temperature",
                "-1; wanted a number from 0");
  ExpectRefused(ReadChat(Chat(R"(,"top_p":0)")), "top_p", "above 0");
  ExpectRefused(ReadChat(Chat(R"(,"max_tokens":0)")), "max_tokens", "an integer from 1");
  ExpectRefused(ReadChat(Chat(R"(,"max_tokens":1.5)")), "max_tokens", "1.5");
  ExpectRefused(ReadChat(Chat(R"(,"seed":1e18)")), "seed", "1e+18");
  EXPECT_EQ(ReadChat(Chat(R"(,"max_tokens":2.0,"n":1e0)"))->generate.max_tokens(), 2u);
  ExpectRefused(ReadChat(Chat(R"(,"seed":18446744073709551615)")), "seed", "18446744073709551615");
  ExpectRefused(ReadChat(Chat(R"(,"max_tokens":1,"max_completion_tokens":2)")), "max_tokens",
                "max_completion_tokens");
  ExpectRefused(ReadChat(Chat(R"(,"stop":[1])")), "stop", "[1]; wanted a string");
  ExpectRefused(ReadChat(Chat(R"(,"cache_salt":"")")), "cache_salt", "that is not empty");
  ExpectRefused(ReadChat(Chat(R"(,"stream":1)")), "stream", "true or false");
  ExpectRefused(ReadChat(Chat(R"(,"top_logprobs":2)")), "top_logprobs", "logprobs is not true");
  ExpectRefused(ReadChat(Chat(R"(,"logprobs":true,"top_logprobs":21)")), "top_logprobs", "to 20");
  ExpectRefused(ReadChat(Chat(R"(,"stream_options":{"include_usage":true})")), "stream_options",
                "stream is not true");
  ExpectRefused(ReadChat(R"({"messages":[{"role":"user","content":""}]})"), "model", "missing");
  ExpectRefused(ReadChat("[]"), "", "the body is []; wanted an object");
}

TEST(OpenAiRequestTest, WhatBendsTheDrawHasBounds) {
  EXPECT_EQ(ReadChat(Chat(R"(,"top_k":-1)"))->generate.sampling().top_k(), 0u);
  ExpectRefused(ReadChat(Chat(R"(,"top_k":-2)")), "top_k", "an integer from -1");
  ExpectRefused(ReadChat(Chat(R"(,"min_p":1.5)")), "min_p", "1.5; wanted a number from 0 to 1");
  ExpectRefused(ReadChat(Chat(R"(,"presence_penalty":2.5)")), "presence_penalty", "from -2 to 2");
  ExpectRefused(ReadChat(Chat(R"(,"frequency_penalty":"x")")), "frequency_penalty", "a number");
  for (const char* penalty : {"0", "0.09", "10.1", "-1"}) {
    ExpectRefused(ReadChat(Chat(absl::StrCat(R"(,"repetition_penalty":)", penalty))),
                  "repetition_penalty", "a number from 0.1 to 10");
  }
  const auto bias = [](const std::string& value) {
    return ReadChat(Chat(R"(,"logit_bias":)" + value));
  };
  EXPECT_TRUE(bias("{}").ok());
  ExpectRefused(bias("[5]"), "logit_bias", "wanted an object");
  ExpectRefused(bias(R"({"5":101})"), "logit_bias.5", "101; wanted a number from -100 to 100");
  ExpectRefused(bias(R"({"5":"1"})"), "logit_bias.5", R"("1"; wanted a number)");
  for (const char* name : {"Paris", "05", " 5", "-1", "4294967296", ""}) {
    ExpectRefused(bias(absl::StrCat("{\"", name, "\":1}")), "logit_bias",
                  absl::StrCat("logit_bias is for \"", name, "\"; wanted token ids as the names"));
  }
  std::string many = R"({"0":1)";
  for (int i = 1; i <= 1024; ++i) absl::StrAppend(&many, ",\"", i, "\":1");
  ExpectRefused(bias(many + "}"), "logit_bias", "at most 1024 token ids");
}

TEST(OpenAiRequestTest, UnknownFieldsAreToldWithTheObjectThatHasThem) {
  ExpectRefused(ReadChat(R"({"model":"m","messages":[{"role":"user","content":"","x":1}]})"),
                "messages[0].x", R"(messages[0] has the field "x", which this server)");
  ExpectRefused(ReadChat(Chat(R"(,"x":1)")), "x",
                R"(the body has the field "x", which this server)");
  ExpectRefused(ReadChat(R"({"model":"m","messages":["Hi"]})"), "messages[0]",
                R"(messages[0] is "Hi"; wanted an object)");
}

TEST(OpenAiRequestTest, UnsupportedFieldsAreRefusedByNameUnlessTheyChangeNothing) {
  for (const auto& [field, value] :
       std::initializer_list<std::pair<const char*, const char*>>{{"store", "true"},
                                                                  {"metadata", "7"},
                                                                  {"service_tier", R"("flex")"},
                                                                  {"safety_identifier", "5"},
                                                                  {"functions", "[{}]"},
                                                                  {"audio", "{}"},
                                                                  {"modalities", R"(["audio"])"},
                                                                  {"reasoning_effort", R"("low")"},
                                                                  {"temprature", "1"}}) {
    ExpectRefused(ReadChat(Chat(absl::StrCat(R"(,")", field, R"(":)", value))), field, field);
  }
  for (const auto& [field, value] : std::initializer_list<std::pair<const char*, const char*>>{
           {"best_of", "2"}, {"echo", "true"}, {"suffix", R"("s")"}, {"messages", "[]"}}) {
    ExpectRefused(ReadCompletion(Completion(absl::StrCat(R"(,")", field, R"(":)", value))), field,
                  field);
  }
  EXPECT_TRUE(ReadChat(Chat(R"(,"n":1,"repetition_penalty":1.0,"store":false,
                               "safety_identifier":"u","prompt_cache_key":"k",
                               "metadata":{"team":"a"},"service_tier":"default",
                               "response_format":{"type":"text"},"modalities":["text"])"))
                  .ok());
  EXPECT_TRUE(ReadCompletion(Completion(R"(,"best_of":1,"echo":false,"suffix":"")")).ok());
}

TEST(OpenAiRequestTest, ResponseFormatIsASchema) {
  const auto schema = [](const std::string& format) {
    const auto request = ReadChat(Chat(absl::StrCat(R"(,"response_format":)", format)));
    EXPECT_TRUE(request.ok()) << request.status();
    return request.ok() ? request->Choice(0).json_schema() : "";
  };
  EXPECT_EQ(schema(R"({"type":"text"})"), "");
  EXPECT_EQ(schema(R"({"type":"json_object"})"), kAnyJsonObject);
  EXPECT_EQ(schema(R"({"type":"json_schema","json_schema":{"name":"n","description":"d",
                       "strict":true,"schema":{"type":"object","properties":{"b":{},"a":{}}}}})"),
            R"({"type":"object","properties":{"b":{},"a":{}}})");
  EXPECT_EQ(ReadCompletion(Completion(R"(,"response_format":{"type":"json_object"})"))
                ->Choice(0)
                .json_schema(),
            kAnyJsonObject);

  struct Row {
    std::string format, field, message;
  };
  for (const Row& row : std::vector<Row>{
           {R"("json")", "response_format", R"(response_format is "json"; wanted an object)"},
           {"{}", "response_format.type", "is missing"},
           {R"({"type":"xml"})", "response_format.type", R"(is "xml"; wanted "text", "json_obj)"},
           {R"({"type":"json_schema"})", "response_format.json_schema", "is missing"},
           {R"({"type":"json_schema","json_schema":{}})", "response_format.json_schema.schema",
            "is missing"},
           {R"({"type":"json_schema","json_schema":{"schema":[]}})",
            "response_format.json_schema.schema", "is []; wanted a JSON schema"},
           {R"({"type":"json_object","schema":{}})", "response_format.schema",
            "response_format has the field"},
           {R"({"type":"json_object"},"ignore_eos":true)", "ignore_eos", "wanted false where"},
           {R"({"type":"json_object"},"min_tokens":5)", "min_tokens", "wanted 0 where"},
           {R"({"type":"json_object"},"tool_choice":"required",
                "tools":[{"type":"function","function":{"name":"f"}}])",
            "tool_choice", R"(is "required"; wanted "auto" or "none" where)"}}) {
    ExpectRefused(ReadChat(Chat(absl::StrCat(R"(,"response_format":)", row.format))), row.field,
                  row.message);
  }
}

TEST(OpenAiRequestTest, WhatLoadGeneratorsSendIsTaken) {
  // `vllm bench serve`, SGLang's bench_serving, AIPerf.
  for (const char* fields :
       {R"(,"repetition_penalty":1.0,"max_tokens":9,"logprobs":null,"stream":true,
            "stream_options":{"include_usage":true},"ignore_eos":true)",
        R"(,"temperature":0.0,"best_of":1,"max_tokens":9,"stream":true,"ignore_eos":true)",
        R"(,"max_tokens":9,"stream":true,"stream_options":{"include_usage":true})"}) {
    const auto request = ReadCompletion(Completion(fields));
    EXPECT_TRUE(request.ok()) << request.status();
  }
}

TEST(OpenAiRequestTest, CompressionIsTextOrAnObject) {
  const auto read = [](const std::string& compression) {
    return ReadChat(Chat(absl::StrCat(R"(,"kvship":{"compression":)", compression, "}")));
  };
  const auto object =
      read(R"({"scorer":"snapkv","budget_ratio":0.25,"normalised":true,"window":8})");
  ASSERT_TRUE(object.ok()) << object.status();
  const auto text = read(R"("scorer=snapkv,budget_ratio=0.25,normalised=true,window=8")");
  EXPECT_EQ(object->generate.compression().SerializeAsString(),
            text->generate.compression().SerializeAsString());
  ExpectRefused(read(R"({"colour":"red"})"), "compression.colour", "colour");
  ExpectRefused(read(R"({"window":"x"})"), "compression.window", "'x'");
  ExpectRefused(read(R"({"window":[1]})"), "kvship.compression.window", "[1]");
  ExpectRefused(read("7"), "kvship.compression", "7");
  ExpectRefused(ReadChat(Chat(R"(,"kvship":{"reports":true})")), "kvship.reports", "reports");
  EXPECT_TRUE(ReadChat(Chat(R"(,"stream":true,"kvship":{"progress":true})"))->progress);
  ExpectRefused(ReadChat(Chat(R"(,"kvship":{"progress":true})")), "kvship.progress",
                "stream is not true");
  for (const char* ms : {"0", "-1", "1.5", "\"1\"", "1e12"}) {
    ExpectRefused(ReadChat(Chat(absl::StrCat(R"(,"kvship":{"timeout_ms":)", ms, "}"))),
                  "kvship.timeout_ms", "wanted an integer from 1");
  }
}

TEST(OpenAiRequestTest, WhatIsNotJsonIsNamedByItsByte) {
  ExpectRefused(ReadChat(R"({"model": nul})"), "", "not valid JSON at byte 14");
  ExpectRefused(ReadChat(""), "", "at byte 1");
  ExpectRefused(ReadChat("{} x"), "", "at byte 4");
  ExpectRefused(ReadChat(Chat("") + std::string("\0{", 2)), "", "at byte 58: a NUL");
  ExpectRefused(ReadChat("{\"model\":\"\xff\"}"), "", "ill-formed UTF-8");
  ExpectRefused(ReadChat(Chat(R"(,"temperature":NaN)")), "", "not valid JSON");
  ExpectRefused(ReadChat(Chat(R"(,"temperature":1e999)")), "", "1e999");
  ExpectRefused(ReadChat(Chat(R"(,"seed":1,"seed":2)")), "", R"(the field "seed" twice)");
}

TEST(OpenAiRequestTest, DeepNestingIsRefused) {
  for (const size_t depth : {size_t{65}, size_t{10'000'000}}) {
    ExpectRefused(ReadChat(std::string(depth, '[')), "", "nested deeper than 64");
  }
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += R"({"a":)";
  ExpectRefused(ReadChat(objects), "", "nested deeper than 64");
}

TEST(OpenAiRequestTest, DamagedBodiesNeverCrash) {
  const std::string whole =
      R"({"model":"m","messages":[{"role":"assistant","tool_calls":[{"id":"a","type":"function",)"
      R"("function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"a",)"
      R"("content":"1"}],"tools":[{"type":"function","function":{"name":"f"}}],"stop":["a"],)"
      R"("logprobs":true,"kvship":{"compression":{"window":8},"report":true}})";
  for (uint64_t i = 0; i < 20'000; ++i) {
    std::string damaged = whole.substr(0, RandomBits(1, i) % (whole.size() + 1));
    for (uint64_t j = 0; j < 3 && !damaged.empty(); ++j) {
      damaged[RandomBits(2, 3 * i + j) % damaged.size()] =
          "{}[]\",:0x-.e\xff\\"[RandomBits(3, 3 * i + j) % 15];
    }
    const auto read = ReadOpenAiRequest(i % 2 ? OpenAiApi::kChat : OpenAiApi::kCompletions, damaged,
                                        kContextTokens, kDrawnSeed);
    EXPECT_TRUE(read.ok() || absl::IsInvalidArgument(read.status())) << damaged;
  }
}

}  // namespace
}  // namespace kvship
