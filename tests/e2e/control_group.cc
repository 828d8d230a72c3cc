#include "tests/e2e/control_group.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace kvship {
namespace {

// Version 2 has one tree of groups, version 1 one for each of what they limit.
constexpr char kRoot[] = "/sys/fs/cgroup";

// Short, so that a step of the batch stands still for as long as others run, not for longer.
constexpr int kPeriodMicroseconds = 10'000;

bool Write(const std::string& path, const std::string& text) {
  // A file that is not there is not made: that is no group's.
  if (!std::filesystem::exists(path)) return false;
  std::ofstream file(path);
  return static_cast<bool>(file << text << std::flush);
}

}  // namespace

std::unique_ptr<ControlGroup> ControlGroup::Make(const std::string& root,
                                                 const std::vector<Setting>& settings) {
  static int num_made = 0;
  const std::string folder = absl::StrCat(root, "/kvship_test_", getpid(), "_", ++num_made);
  std::error_code failed;
  if (!std::filesystem::create_directory(folder, failed)) return nullptr;
  std::unique_ptr<ControlGroup> group(new ControlGroup(folder));
  for (const auto& [file, value] : settings) {
    if (!Write(absl::StrCat(folder, "/", file), value)) return nullptr;
  }
  return group;
}

std::unique_ptr<ControlGroup> ControlGroup::OfMemory(size_t most_bytes) {
  const std::string bytes = absl::StrCat(most_bytes);
  if (auto group = Make(kRoot, {{"memory.max", bytes}})) return group;
  return Make(absl::StrCat(kRoot, "/memory"), {{"memory.limit_in_bytes", bytes}});
}

std::unique_ptr<ControlGroup> ControlGroup::OfProcessors(double processors) {
  const std::string quota = absl::StrCat(std::lround(processors * kPeriodMicroseconds));
  const std::string period = absl::StrCat(kPeriodMicroseconds);
  if (auto group = Make(kRoot, {{"cpu.max", absl::StrCat(quota, " ", period)}})) return group;
  return Make(absl::StrCat(kRoot, "/cpu"),
              {{"cpu.cfs_period_us", period}, {"cpu.cfs_quota_us", quota}});
}

ControlGroup::~ControlGroup() {
  std::error_code ignored;
  std::filesystem::remove(folder_, ignored);
}

std::string ControlGroup::Enter() const {
  return absl::StrCat("echo $$ >", folder_, "/cgroup.procs;");
}

void ControlGroup::Add(int pid) const {
  EXPECT_TRUE(Write(absl::StrCat(folder_, "/cgroup.procs"), absl::StrCat(pid))) << folder_;
}

}  // namespace kvship
