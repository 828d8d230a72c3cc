// The addresses of prefill nodes, as --prefill gives them: "dns:///host:port" stands for all
// addresses of the host, anything else for itself. Pure functions, except AddressesOf, which
// queries name servers.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace kvship {

// InvalidArgument if `targets` is empty, or naming the first that is not HOST:PORT.
absl::Status CheckTargets(const std::vector<std::string>& targets);

// FailedPrecondition naming the first target that is not on this machine.
absl::Status CheckTargetsInPlainText(const std::vector<std::string>& targets);

// Returns whether the target must be resolved by name servers.
bool IsName(absl::string_view target);

// Resolves a name to numeric addresses "ipv4:host:port", "ipv6:[host]:port"; empty if it is unknown
// now. Blocks.
std::set<std::string> AddressesOf(const std::string& target);

// The name of a target's server: "host:port".
std::string ServerNameOf(absl::string_view target);

}  // namespace kvship
