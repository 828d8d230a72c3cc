#include "rpc/tls_copies.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "absl/time/clock.h"
#include "base/log.h"
#include "tests/temp_folder.h"

namespace kvship {
namespace {

// Made first, and so destroyed last: whoever still warns then has lost what it warns with.
struct LongEnd {
  ~LongEnd() { absl::SleepFor(absl::Seconds(2)); }
};

// Ends this process, well, while its files are found to be of no use.
[[noreturn]] void EndAndWarn() {
  static const LongEnd end;
  StartLog("test", LogFormat::kText);
  const auto use = [](const TlsFiles& files) -> absl::StatusOr<std::shared_ptr<SSL_CTX>> {
    if (!std::filesystem::exists(files.certificate)) return absl::NotFoundError(files.certificate);
    return nullptr;
  };
  {
    const TempFolder folder;
    const std::string file = folder.Write("certificate", "of use");
    if (!CopiesOf({.certificate = file, .key = "", .ca = ""}, use).ok()) std::_Exit(2);
  }  // and the file goes
  std::exit(0);
}

TEST(TlsCopies, AProcessMayEndWhileItsFilesCannotBeUsed) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(EndAndWarn(), ::testing::ExitedWithCode(0), "^$") << "and nothing is said any more";
}

}  // namespace
}  // namespace kvship
