#include "client/stop_flags.h"

#include <utility>

#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace kvship {

std::vector<std::string> TakeStopFlags(std::vector<char*>* arguments) {
  std::vector<std::string> stop;
  std::vector<char*> rest;
  for (size_t i = 0; i < arguments->size(); ++i) {
    absl::string_view flag = (*arguments)[i];
    const bool is_flag = absl::ConsumePrefix(&flag, "--") || absl::ConsumePrefix(&flag, "-");
    if (is_flag && absl::ConsumePrefix(&flag, "stop=")) {
      stop.emplace_back(flag);
    } else if (is_flag && flag == "stop" && i + 1 < arguments->size()) {
      stop.emplace_back((*arguments)[++i]);
    } else {
      rest.push_back((*arguments)[i]);
    }
  }
  *arguments = std::move(rest);
  return stop;
}

}  // namespace kvship
