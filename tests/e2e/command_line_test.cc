// What the programs tell of themselves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/e2e/processes.h"
#include "tests/needed.h"
#include "tests/temp_folder.h"

namespace kvship {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST(CommandLineTest, HelpTellsTheProgramsOwnFlagsAndVersionWhichItIs) {
  for (const auto& [program, flag] :
       {std::pair{"kvship-prefill", "--max_active_bytes ("},
        std::pair{"kvship-decode", "--pool_bytes ("}, std::pair{"kvship", "--max_tokens ("}}) {
    SCOPED_TRACE(program);
    Process help(program, {"--help"});
    EXPECT_EQ(help.Wait(), 0);
    EXPECT_THAT(help.Output(),
                AllOf(HasSubstr(flag), HasSubstr("default: "), Not(HasSubstr("--undefok"))));
    Process version(program, {"--version"});
    EXPECT_EQ(version.Wait(), 0);
    EXPECT_THAT(version.Output(), StartsWith("kvship " KVSHIP_VERSION "\n"));
    Process wrong(program, {"--help", "--no_such_flag"});
    EXPECT_EQ(wrong.Wait(), 1);
    EXPECT_THAT(wrong.Errors(), HasSubstr("no_such_flag"));
  }
}

TEST(CommandLineTest, OutputThatCannotBeWrittenIsAnError) {
  const TempFolder folder;
  const std::string errors = folder.path() + "/errors";
  for (const std::string command :
       {"kvship plan", "kvship --help", "kvship-inspect model " KVSHIP_GOLDENS "/models/llama"}) {
    const std::string line = absl::StrCat(KVSHIP_BIN "/", command, " >/dev/full 2>", errors);
    EXPECT_EQ(WEXITSTATUS(std::system(line.c_str())), 1) << line;
    EXPECT_THAT(ReadBytes(errors), HasSubstr("standard output cannot be written")) << line;
  }
}

TEST(CommandLineTest, NamesOfFlagsMayHaveDashes) {
  for (const std::string program : {"kvship-prefill", "kvship-decode"}) {
    Process server(program, {"--model=/nowhere", "--log-format=json"});
    EXPECT_EQ(server.Wait(), 1);
    EXPECT_THAT(server.Errors(), HasSubstr("/nowhere")) << program;
  }
}

// The first model has no tokenizer, which is a part of the identity.
TEST(CommandLineTest, InspectTellsTheIdentityThatAServerTells) {
  for (const std::string model : {KVSHIP_GOLDENS "/models/llama", KVSHIP_DEMO_MODEL}) {
    if (IsMissing(model)) GTEST_SKIP() << "no " << model;
    Process inspect("kvship-inspect", {"model", model});
    EXPECT_EQ(inspect.Wait(), 0) << inspect.Errors();
    const std::string identity = nlohmann::json::parse(inspect.Output())["identity"];
    Server prefill("kvship-prefill", model, {"--threads=1"});
    Server decode("kvship-decode", model,
                  {"--threads=1", absl::StrCat("--prefill=", prefill.address())});
    ASSERT_TRUE(prefill.WaitUntilReady() && decode.WaitUntilReady());
    Process models("kvship", {"models", "--server=" + decode.address(), "--timeout=1m"});
    EXPECT_EQ(models.Wait(), 0) << models.Errors();
    EXPECT_THAT(models.Output(), HasSubstr(identity)) << model;
  }
}

// The model's configuration has another one.
TEST(CommandLineTest, InspectEndsOutputsWhereAServerDoes) {
  const TempFolder folder;
  std::filesystem::copy(KVSHIP_GOLDENS "/models/llama", folder.path());
  folder.Write("tokenizer.json", ReadBytes(KVSHIP_GOLDENS "/tokenizers/digits/tokenizer.json"));
  folder.Write("tokenizer_config.json", R"({"eos_token": "<|im_start|>"})");
  const auto golden = nlohmann::json::parse(ReadBytes(folder.path() + "/golden.json"));
  const std::string prompt = folder.Write("prompt", golden["prompt_tokens"].dump());
  Process generate("kvship-inspect", {"generate", folder.path(), "--tokens-file=" + prompt});
  EXPECT_EQ(generate.Wait(), 0) << generate.Errors();
  EXPECT_EQ(nlohmann::json::parse(generate.Output())["tokens"], (std::vector<int>{154, 1}));
  Process model("kvship-inspect", {"model", folder.path()});
  EXPECT_EQ(model.Wait(), 0) << model.Errors();
  EXPECT_EQ(nlohmann::json::parse(model.Output())["end_tokens"], (std::vector<int>{2, 1}));
}

TEST(CommandLineTest, InspectRefusesWhatNoServerTakes) {
  const TempFolder folder;
  const std::string prompt = folder.Write("prompt", "[1, 2, 3]");
  const auto refusal = [&](const std::string& command, const std::string& flag) {
    Process inspect("kvship-inspect",
                    {command, KVSHIP_GOLDENS "/models/llama", "--tokens-file=" + prompt, flag});
    EXPECT_EQ(inspect.Wait(), 1);
    return inspect.Errors();
  };
  EXPECT_THAT(refusal("generate", "--max_tokens=18446744073709551615"),
              HasSubstr("wanted at most the model's context"));
  EXPECT_THAT(refusal("compress", R"(--options={"budget_tokens": 8, "budget_ratio": 0.5})"),
              HasSubstr("budget"));
  EXPECT_THAT(refusal("bench", "--threads=100000"),
              HasSubstr("--threads is 100000; wanted 0, one per processor, to 1024"));
  for (const std::string ids : {"[4294967297]", "[1.0]", "[-1]", "[]", "1"}) {
    EXPECT_THAT(refusal("logits", "--tokens-file=" + folder.Write("ids", ids)),
                AllOf(HasSubstr("--tokens-file "), HasSubstr("token id")))
        << ids;
  }
  EXPECT_THAT(refusal("sweep", "--cases-file=" + folder.path()),
              HasSubstr("--cases-file is '" + folder.path() + "', which cannot be read"));
}

TEST(CommandLineTest, AnAnswerIsHeldToASchema) {
  if (IsMissing(KVSHIP_DEMO_MODEL)) GTEST_SKIP() << "no " << KVSHIP_DEMO_MODEL;
  Server prefill("kvship-prefill", KVSHIP_DEMO_MODEL, {"--threads=1"});
  Server decode("kvship-decode", KVSHIP_DEMO_MODEL,
                {"--threads=1", absl::StrCat("--prefill=", prefill.address())});
  ASSERT_TRUE(prefill.WaitUntilReady() && decode.WaitUntilReady());
  const auto generate = [&decode](const std::string& schema) {
    return std::vector<std::string>{"generate",        "--server=" + decode.address(),
                                    "--timeout=1m",    "--prompt=A list of numbers:",
                                    "--max-tokens=40", "--json_schema=" + schema};
  };
  Process list("kvship", generate(R"({"type": "array", "items": {"enum": [7, 8]}, "minItems": 2,
                                      "maxItems": 2})"));
  EXPECT_EQ(list.Wait(), 0) << list.Errors();
  const auto numbers = nlohmann::json::parse(list.Output());
  EXPECT_EQ(numbers.size(), 2u) << numbers;
  EXPECT_THAT(numbers.get<std::vector<int>>(), Each(AnyOf(7, 8)));
  Process wrong("kvship", generate(R"({"type": "number", "multipleOf": 2})"));
  EXPECT_EQ(wrong.Wait(), 1);
  EXPECT_THAT(wrong.Errors(), HasSubstr("json_schema.multipleOf is 2; wanted it left out"));
}

TEST(CommandLineTest, HelpIsACommandToo) {
  Process help("kvship", {"help"});
  EXPECT_EQ(help.Wait(), 0);
  EXPECT_THAT(help.Output(), AllOf(StartsWith("kvship COMMAND"), HasSubstr("\n  bench ")));
}

// What `kvship` says of these flags, without having asked a server.
std::string RefusalOf(std::vector<std::string> flags) {
  flags.push_back("--server=127.0.0.1:1");
  Process program("kvship", flags);
  EXPECT_EQ(program.Wait(), 1);
  return program.Errors();
}

TEST(CommandLineTest, FlagsThatMakeNoLoadAreRefusedByName) {
  const std::string prompt = "--prompt=x";
  EXPECT_THAT(RefusalOf({"bench", "--prompt_tokens=100000000000"}),
              HasSubstr("--prompt_tokens is '100000000000'; wanted a number of tokens from 1 to"));
  EXPECT_THAT(RefusalOf({"bench", "--rate=nan", prompt}), HasSubstr("--rate is nan; wanted"));
  EXPECT_THAT(RefusalOf({"bench", "--rate=-1", prompt}), HasSubstr("--rate is -1; wanted"));
  EXPECT_THAT(RefusalOf({"bench", "--requests=100000000000", prompt}),
              HasSubstr("--requests is 100000000000; wanted a number from 1 to"));
  for (const std::string flag : {"--rate", "--prompt_tokens", "--output_tokens"}) {
    EXPECT_THAT(RefusalOf({"bench", "--trace=/nowhere", flag + "=4"}),
                HasSubstr(flag + " is given with --trace; wanted one of them"));
  }
  EXPECT_THAT(RefusalOf({"bench", "--trace=/nowhere", "--requests=0"}),
              HasSubstr("--requests is 0; wanted a number from 1 to"));
  for (const auto& [flag, value] :
       {std::pair{"--trace", "=/nowhere"}, std::pair{"--output_tokens", "=4"}}) {
    EXPECT_THAT(
        RefusalOf({"bench", "--prompt_tokens=4", absl::StrCat(flag, value), "--max_tokens=8"}),
        HasSubstr(absl::StrCat("--max_tokens is given with ", flag, "; wanted one of them")));
  }
  for (const std::string flag : {"--prompt", "--prompt-file", "--tokens-file"}) {
    EXPECT_THAT(RefusalOf({"bench", "--prompt_tokens=4", flag + "=x"}),
                HasSubstr(flag + " is given with --prompt_tokens; wanted one of them"));
  }
  for (const std::string flag : {"--slo_first_token", "--slo_between_tokens", "--timeout"}) {
    EXPECT_THAT(RefusalOf({"bench", flag + "=-1s", prompt}),
                HasSubstr(flag + " is -1s; wanted a duration above 0"));
  }
}

TEST(CommandLineTest, TextsThatAreNotUtf8AreRefusedByName) {
  EXPECT_THAT(RefusalOf({"generate", "--prompt=ab\xff"}),
              HasSubstr("kvship generate: --prompt is not UTF-8 at byte 2 (0xFF"));
  const TempFolder folder;
  for (const std::string& stop :
       {std::string("--stop=\xe9"), "--flagfile=" + folder.Write("flags", "--stop=\xe9\n")}) {
    EXPECT_THAT(RefusalOf({"generate", "--prompt=a", stop}),
                HasSubstr("--stop is not UTF-8 at byte 0 (0xE9"));
  }
  EXPECT_THAT(RefusalOf({"generate", "--prompt=a", "--compression=scorer=\xe9"}),
              HasSubstr("--compression is not UTF-8 at byte 7"));
}

// Only the first of them is wrong.
TEST(CommandLineTest, TextsThatStopAreAllTakenWithOneDashToo) {
  EXPECT_THAT(RefusalOf({"generate", "--prompt=a", "-stop=\xe9", "-stop", "b", "--stop=c"}),
              HasSubstr("--stop is not UTF-8 at byte 0 (0xE9"));
}

TEST(CommandLineTest, TokensThatCannotBeSentAreRefusedByWhereTheyCameFrom) {
  const TempFolder files;
  const std::string with_nul = files.Write("token", std::string("one\0two", 7));
  EXPECT_THAT(RefusalOf({"models", "--api_token_file=" + with_nul}),
              HasSubstr("the API token of --api_token_file '" + with_nul + "' has byte 0x"));
  for (const std::string token : {"gr\xc3\xbc\xc3\x9f", "one\ntwo"}) {
    const TempFolder folder;
    const std::string path = folder.Write("token", token + "\n");
    EXPECT_THAT(RefusalOf({"models", "--api_token_file=" + path}),
                HasSubstr("the API token of --api_token_file '" + path + "' has byte 0x"));
    setenv("KVSHIP_API_TOKEN", token.c_str(), /*replace=*/1);
    EXPECT_THAT(RefusalOf({"models"}),
                AllOf(HasSubstr("KVSHIP_API_TOKEN has byte 0x"), Not(HasSubstr(token))));
    unsetenv("KVSHIP_API_TOKEN");
  }
}

TEST(CommandLineTest, NumbersOutOfRangeAreRefusedByTheFlagsName) {
  for (const auto& [program, flag, wanted] :
       {std::tuple{"kvship-prefill", "--max_queue_tokens=0", "at least 1"},
        std::tuple{"kvship-prefill", "--go_timeout=-1s", "more than 0"},
        std::tuple{"kvship-decode", "--default_max_tokens=0", "at least 1"},
        std::tuple{"kvship-decode", "--max_batch_sessions=0", "at least 1"},
        std::tuple{"kvship-decode", "--max_waiting_tokens=0", "at least 1"},
        std::tuple{"kvship-decode", "--max_waiting_requests=0", "at least 1"},
        std::tuple{"kvship-decode", "--max_unread_tokens=0", "at least 1"},
        std::tuple{"kvship-decode", "--max_http_requests=0", "at least 1"},
        std::tuple{"kvship-decode", "--default_deadline=-1s", "more than 0"},
        std::tuple{"kvship-decode", "--http_deadline=-1s", "more than 0"},
        std::tuple{"kvship-decode", "--max_message_bytes=4294967295", "1 to 2147483647"},
        std::tuple{"kvship-decode", "--max_message_bytes=4294967296", "1 to 2147483647"},
        std::tuple{"kvship-decode", "--max_streams=0", "1 to 2147483647"},
        std::tuple{"kvship-decode", "--pool_bytes=0", "at least 1"},
        std::tuple{"kvship-prefill", "--drain_timeout=-1s", "0 or more"},
        std::tuple{"kvship-decode", "--drain_timeout=-1s", "0 or more"},
        std::tuple{"kvship-prefill", "--threads=1025", "0, one per processor, to 1024"},
        std::tuple{"kvship-decode", "--threads=100000", "0, one per processor, to 1024"}}) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(flag, '=');
    Process server(program, {"--model=/nowhere", flag});
    EXPECT_EQ(server.Wait(), 1);
    EXPECT_THAT(server.Errors(),
                HasSubstr(absl::StrCat(parts.first, " is ", parts.second, "; wanted ", wanted)));
  }
}

TEST(CommandLineTest, WhatIsNoFlagIsRefusedByName) {
  for (const std::string program : {"kvship-prefill", "kvship-decode"}) {
    Process server(program, {"--model=/nowhere", "--insecure", "false"});
    EXPECT_EQ(server.Wait(), 1);
    EXPECT_THAT(server.Errors(), HasSubstr("'false' is no flag; wanted flags alone")) << program;
  }
}

TEST(CommandLineTest, TextsThatCannotBeAreRefusedByTheFlagsName) {
  const std::string model = absl::StrCat("--model=", KVSHIP_GOLDENS, "/models/llama");
  struct Case {
    const char* program;
    std::vector<std::string> flags;
    const char* message;
  };
  for (const Case& c : {
           Case{"kvship-decode", {"--default_compression=scorer=foo"}, "--default_compression: "},
           Case{"kvship-decode", {"--kv_tail=foo"}, "--kv_tail is 'foo'; wanted f32, f16 or bf16"},
           Case{"kvship-decode", {"--prefill="}, "--prefill is ''; wanted prefill nodes"},
           Case{"kvship-decode", {"--prefill=127.0.0.1"}, "--prefill is '127.0.0.1'; wanted"},
           Case{"kvship-decode", {"--api_tokens_file=/nope"}, "--api_tokens_file: '/nope'"},
           Case{"kvship-decode", {"--tls_cert=/nope", "--tls_key=/nope"}, "--tls_cert, --tls_key:"},
           Case{"kvship-prefill", {"--tls_cert=/nope", "--tls_key=/no"}, "--tls_cert, --tls_key:"},
           Case{"kvship-decode", {"--prefill_tls_ca=/nope"}, "--prefill_tls_ca: '/nope'"},
       }) {
    std::vector<std::string> flags = {model, "--listen=127.0.0.1:0", "--admin=127.0.0.1:0"};
    flags.insert(flags.end(), c.flags.begin(), c.flags.end());
    Process server(c.program, flags);
    EXPECT_EQ(server.Wait(), 1) << c.message;
    EXPECT_THAT(server.Errors(), HasSubstr(c.message));
  }
}

}  // namespace
}  // namespace kvship
