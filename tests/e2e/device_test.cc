// What --device says to real processes, on any machine.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/processes.h"

namespace kvship {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

// Flags of a server that would serve, were it not for its device.
std::vector<std::string> Flags(const std::string& device) {
  return {"--model=" KVSHIP_GOLDENS "/models/llama", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0",
          "--device=" + device};
}

TEST(Device, AGpuThatIsNotThereEndsTheStartWithOneSentence) {
  for (const char* program : {"kvship-prefill", "kvship-decode"}) {
    Process process(program, Flags("cuda:999"));
    EXPECT_EQ(process.Wait(), 1) << program;
    EXPECT_THAT(process.Errors(), AnyOf(HasSubstr("built without CUDA; wanted cpu"),
                                        HasSubstr("no GPU that can be used"),
                                        HasSubstr("GPUs; wanted cuda:0 to cuda:")))
        << program;
    EXPECT_THAT(process.Errors(), HasSubstr("--device")) << program;
  }
}

TEST(Device, AnUnknownDeviceIsRefusedByName) {
  for (const char* program : {"kvship-prefill", "kvship-decode"}) {
    Process process(program, Flags("tpu"));
    EXPECT_EQ(process.Wait(), 1) << program;
    EXPECT_THAT(process.Errors(), HasSubstr("--device is 'tpu'; wanted cpu, cuda or cuda:N"))
        << program;
  }
}

}  // namespace
}  // namespace kvship
