// The flag --stop of `kvship`, which may be given several times: Abseil's flags keep only the last
// value. Pure functions of their arguments.
#pragma once

#include <string>
#include <vector>

namespace kvship {

// Takes each --stop=TEXT and --stop TEXT, with one dash or two as Abseil has them, out of a command
// line and returns the texts. A --flagfile is not looked into.
std::vector<std::string> TakeStopFlags(std::vector<char*>* arguments);

}  // namespace kvship
