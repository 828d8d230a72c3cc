// NoThreadLeft stands for a system that has no thread left for this process, or only a few, as long
// as it lives. Not under sanitizers, which have their own way to make one.
#pragma once

namespace kvship {

class NoThreadLeft {
 public:
  explicit NoThreadLeft(int num_threads = 0);
  ~NoThreadLeft();
  NoThreadLeft(const NoThreadLeft&) = delete;
  NoThreadLeft& operator=(const NoThreadLeft&) = delete;
};

}  // namespace kvship
