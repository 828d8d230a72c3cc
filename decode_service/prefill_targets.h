// Where prefill nodes are, as --prefill names them: "dns:///host:port" stands for all addresses
// that the host has, anything else for itself. Pure but for AddressesOf, which asks name servers.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace kvship {

// InvalidArgument if there is none, or naming the first that is not HOST:PORT.
absl::Status CheckTargets(const std::vector<std::string>& targets);

// FailedPrecondition naming the first target that is not on this machine.
absl::Status CheckTargetsInPlainText(const std::vector<std::string>& targets);

// Whether the target stands for what name servers say.
bool IsName(absl::string_view target);

// The numeric addresses "ipv4:host:port", "ipv6:[host]:port" that a target stands for, or itself;
// none if the name is not known now. Blocks where the target is a name.
std::set<std::string> AddressesOf(const std::string& target);

// What the server of a target is called: "host:port".
std::string ServerNameOf(absl::string_view target);

}  // namespace kvship
