#include "decode_service/http/openai_json.h"

#include <cmath>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "engine/json_text.h"
#include "rpc/errors.h"

namespace kvship {
namespace {

using json = nlohmann::ordered_json;

// Enough for a tool's JSON schema, and safe for the stack of recursive readers.
constexpr size_t kMostDepth = 64;
constexpr size_t kMostFields = 64;  // reserved for a body; more are accepted

// Builds the tree. nlohmann's own builder records no error position, accepts any depth, and adds
// each field with a linear search.
class TreeBuilder final : public nlohmann::json_sax<json> {
 public:
  explicit TreeBuilder(size_t most_values) : most_values_(most_values) {}

  bool null() override { return Add(nullptr) != nullptr; }
  bool boolean(bool value) override { return Add(value) != nullptr; }
  bool number_integer(int64_t value) override { return Add(value) != nullptr; }
  bool number_unsigned(uint64_t value) override { return Add(value) != nullptr; }
  bool number_float(double value, const std::string&) override { return Add(value) != nullptr; }
  bool string(std::string& value) override { return Add(std::move(value)) != nullptr; }
  bool binary(json::binary_t&) override { return Fail("binary data"); }
  bool start_object(size_t) override {
    const bool is_root = open_.empty();
    if (!OpenOne(json::object())) return false;
    // Growing would copy the fields so far, which are long here.
    if (is_root) root_.get_ref<json::object_t&>().reserve(kMostFields);
    return true;
  }
  bool start_array(size_t) override { return OpenOne(json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(std::string& name) override {
    if (!open_.back().names.insert(name).second) {
      return Fail(absl::StrCat("names the field ", ShortJson(name), " twice; wanted it once"));
    }
    key_ = std::move(name);
    return true;
  }

  bool parse_error(size_t position, const std::string&, const json::exception& error) override {
    // Without the library's "[json.exception.parse_error.101] ".
    const absl::string_view what = error.what();
    const size_t begin = what.find("] ");
    return Fail(absl::StrCat("is not valid JSON at byte ", position, ": ",
                             begin == absl::string_view::npos ? what : what.substr(begin + 2)));
  }

  absl::StatusOr<json> Take() {
    if (!error_.ok()) return error_;
    return std::move(root_);
  }

 private:
  bool Fail(absl::string_view what) {
    error_ = absl::InvalidArgumentError(absl::StrCat("the body ", what));
    return false;
  }

  // Null if that is one too many.
  json* Add(json value) {
    if (open_.empty()) return &(root_ = std::move(value));
    json& parent = *open_.back().value;
    // Numbers in lists take 16 bytes, all else a chunk of memory or more.
    const bool is_large = parent.is_object() || !value.is_number();
    if (is_large && ++num_values_ > most_values_) {
      Fail(absl::StrCat("has more than ", most_values_, " values beside numbers in lists; wanted ",
                        "no more than any request needs for the model's context"));
      return nullptr;
    }
    if (parent.is_object()) {
      return &parent.get_ref<json::object_t&>()
                  .emplace_back(std::move(key_), std::move(value))
                  .second;
    }
    parent.push_back(std::move(value));
    return &parent.back();
  }

  bool OpenOne(json empty) {
    if (open_.size() == kMostDepth) {
      return Fail(absl::StrCat("is nested deeper than ", kMostDepth, " levels"));
    }
    // The pointer stays valid: a parent does not grow while a child of it is open.
    json* const value = Add(std::move(empty));
    if (value != nullptr) open_.push_back({.value = value, .names = {}});
    return value != nullptr;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  struct Open {
    json* value;
    absl::flat_hash_set<std::string> names;  // of an object's fields
  };

  const size_t most_values_;
  size_t num_values_ = 0;
  json root_;
  std::vector<Open> open_;
  std::string key_;
  absl::Status error_;
};

// As in JSON Schema, 2.0 is an integer too, but only while doubles distinguish neighbouring
// integers.
std::optional<int64_t> IntegerOf(const json& value) {
  if (value.is_number_float()) {
    constexpr double kMostExact = int64_t{1} << 53;
    const double number = value.get<double>();
    if (std::trunc(number) != number || std::abs(number) > kMostExact) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  const bool too_large = value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX;
  if (!value.is_number_integer() || too_large) return std::nullopt;
  return value.get<int64_t>();
}

}  // namespace

absl::StatusOr<json> ParseBody(absl::string_view body, size_t most_values) {
  TreeBuilder builder(most_values);
  json::sax_parse(body.begin(), body.end(), &builder);
  ASSIGN_OR_RETURN(json tree, builder.Take());
  // nlohmann takes a NUL for the end and ignores the rest. Valid JSON contains none.
  if (const size_t nul = body.find('\0'); nul != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("the body is not valid JSON at byte ", nul + 1,
                                                   ": a NUL; wanted the body's end"));
  }
  return tree;
}

JsonFields::JsonFields(const json& object, std::string path)
    : object_(object), path_(std::move(path)) {
  if (object_.is_object()) return;
  error_ = path_.empty() ? absl::InvalidArgumentError(absl::StrCat(
                               "the body is ", ShortJson(object_), "; wanted an object"))
                         : WrongField(ObjectPath(), ShortJson(object_), "an object");
}

absl::string_view JsonFields::ObjectPath() const { return absl::StripSuffix(path_, "."); }

const json* JsonFields::Value(const std::string& name) {
  asked_.insert(name);
  if (!object_.is_object()) return nullptr;
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<bool> JsonFields::Bool(const std::string& name) {
  const json* value = Value(name);
  if (value == nullptr) return std::nullopt;
  Check(value->is_boolean(), name, "true or false");
  return value->is_boolean() ? value->get<bool>() : false;
}

std::optional<std::string> JsonFields::Text(const std::string& name) {
  const json* value = Value(name);
  if (value == nullptr) return std::nullopt;
  Check(value->is_string(), name, "a string");
  return value->is_string() ? value->get<std::string>() : "";
}

std::optional<double> JsonFields::Number(const std::string& name) {
  const json* value = Value(name);
  if (value == nullptr) return std::nullopt;
  Check(value->is_number(), name, "a number");
  return value->is_number() ? value->get<double>() : 0;
}

std::optional<double> JsonFields::Number(const std::string& name, double least, double most) {
  const std::optional<double> number = Number(name);
  Check(!number || (*number >= least && *number <= most), name,
        absl::StrCat("a number from ", least, " to ", most));
  return number;
}

std::optional<int64_t> JsonFields::Integer(const std::string& name, int64_t least, int64_t most) {
  const json* value = Value(name);
  if (value == nullptr) return std::nullopt;
  const std::optional<int64_t> integer = IntegerOf(*value);
  Check(integer && *integer >= least && *integer <= most, name,
        absl::StrCat("an integer from ", least, " to ", most));
  return integer.value_or(0);
}

void JsonFields::Only(const std::string& name, const json& supported) {
  const json* value = Value(name);
  if (value == nullptr || *value == supported) return;
  Note(WrongField(PathOf(name), ShortJson(*value),
                  absl::StrCat("it left out or ", supported.dump(), ": this server supports ",
                               "nothing else")));
}

void JsonFields::Require(const std::string& name) {
  if (Value(name) == nullptr) Note(WrongField(PathOf(name), "missing", "it to be given"));
}

void JsonFields::Check(bool ok, const std::string& name, absl::string_view wanted) {
  if (ok) return;
  const json* value = Value(name);
  Note(WrongField(PathOf(name), value == nullptr ? "missing" : ShortJson(*value), wanted));
}

void JsonFields::Note(const absl::Status& error) {
  if (error_.ok()) error_ = error;
}

absl::Status JsonFields::Finish() const {
  if (!error_.ok()) return error_;
  for (const auto& [name, value] : object_.items()) {
    if (value.is_null() || asked_.contains(name)) continue;
    // The name comes from the client: quoted as JSON, it cannot pass for something else.
    return WithField(absl::InvalidArgumentError(absl::StrCat(
                         path_.empty() ? "the body" : ObjectPath(), " has the field ",
                         ShortJson(name), ", which this server does not know; wanted it left out")),
                     PathOf(name));
  }
  return absl::OkStatus();
}

}  // namespace kvship
