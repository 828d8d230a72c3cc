// A control group of the kernel's, as a container has: what the processes in it may take of memory
// or of processors.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace kvship {

// It goes with this, once its processes have ended.
class ControlGroup {
 public:
  // Each nothing where this account may make none, or this kernel has none. Beyond `most_bytes` the
  // kernel kills the process; beyond `processors` (0.5: half of one's time) it stands still.
  static std::unique_ptr<ControlGroup> OfMemory(size_t most_bytes);
  static std::unique_ptr<ControlGroup> OfProcessors(double processors);
  ~ControlGroup();

  // A shell command that puts the shell into it.
  std::string Enter() const;
  // Puts a running process into it.
  void Add(int pid) const;

 private:
  // A file of the group's, and what is written there.
  struct Setting {
    std::string file;
    std::string value;
  };
  static std::unique_ptr<ControlGroup> Make(const std::string& root,
                                            const std::vector<Setting>& settings);
  explicit ControlGroup(std::string folder) : folder_(std::move(folder)) {}

  const std::string folder_;
};

}  // namespace kvship
