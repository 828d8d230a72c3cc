#include "decode_service/grammar/json_schema_one_of.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "decode_service/grammar/json_schema_values.h"
#include "engine/schema_types.h"

namespace kvship {
namespace {

using json = nlohmann::ordered_json;
// Which compare their members in whatever order they stand.
using Values = std::vector<nlohmann::json>;

// Far more than there are of values within the quotas of json_schema.h. Definitions may have more,
// as long as it is not their turn to be read.
constexpr size_t kMostComparisons = 1'000'000;

// What of a schema tells it from others.
struct Traits {
  const Values* values = nullptr;             // the only ones that fit; null: not listed
  SchemaNames types;                          // of values that may fit; an integer is a number
  std::map<std::string, const Values*> tags;  // properties that it requires, of listed values
};

class Alternatives {
 public:
  explicit Alternatives(const json& root) : root_(root) {}

  // Of what a schema refers to, or itself. Each is looked at once, however many refer to it.
  const Traits& TraitsOf(const json& schema) {
    const json& named = ReferredSchema(schema, root_);
    const auto [found, is_new] = traits_.try_emplace(&named);
    Traits& traits = found->second;
    if (!is_new) return traits;
    traits.values = ValuesOf(named);
    traits.types = TypesThatFit(named, traits.values);
    traits.tags = TagsOf(named);
    return traits;
  }

  bool AreDisjoint(const Traits& a, const Traits& b) {
    if (a.values != nullptr && b.values != nullptr) return !MayHaveCommon(*a.values, *b.values);
    SchemaNames common;
    std::set_intersection(a.types.begin(), a.types.end(), b.types.begin(), b.types.end(),
                          std::inserter(common, common.end()));
    if (common != SchemaNames{"object"}) return common.empty();
    return std::any_of(a.tags.begin(), a.tags.end(), [&](const auto& tag) {
      const auto other = b.tags.find(tag.first);
      return other != b.tags.end() && !MayHaveCommon(*tag.second, *other->second);
    });
  }

 private:
  const Values* ValuesOf(const json& schema) {
    const bool is_one = schema.contains("const");
    if (!is_one && !(schema.contains("enum") && schema["enum"].is_array())) return nullptr;
    const auto [found, is_new] = values_.try_emplace(&schema);
    if (!is_new) return &found->second;
    if (is_one) {
      found->second.push_back(schema["const"]);
    } else {
      found->second.assign(schema["enum"].begin(), schema["enum"].end());
    }
    return &found->second;
  }

  static SchemaNames TypesThatFit(const json& schema, const Values* values) {
    SchemaNames types;
    for (const auto& of_type : KeywordsOfTypes()) {
      const auto& type = of_type.first;
      const auto is_of_type = [&type](const json& value) { return IsOfSchemaType(value, type); };
      if (values == nullptr || std::any_of(values->begin(), values->end(), is_of_type)) {
        types.insert(type);
      }
    }
    const auto named = SchemaTypes(schema, "");
    if (values == nullptr && named.ok() && !named->empty()) types = *named;
    if (types.erase("integer") > 0) types.insert("number");
    return types;
  }

  std::map<std::string, const Values*> TagsOf(const json& schema) {
    std::map<std::string, const Values*> tags;
    const auto properties = schema.find("properties"), required = schema.find("required");
    if (properties == schema.end() || required == schema.end()) return tags;
    if (!properties->is_object() || !required->is_array()) return tags;
    SchemaNames names;
    for (const json& name : *required) {
      if (name.is_string()) names.insert(name.get<std::string>());
    }
    for (const auto& [name, property] : properties->items()) {
      if (!names.contains(name)) continue;
      const Values* values = ValuesOf(ReferredSchema(property, root_));
      if (values != nullptr) tags.emplace(name, values);
    }
    return tags;
  }

  bool MayHaveCommon(const Values& a, const Values& b) {
    for (const nlohmann::json& value : a) {
      for (const nlohmann::json& other : b) {
        if (++num_comparisons_ > kMostComparisons || value == other) return true;
      }
    }
    return false;
  }

  const json& root_;
  std::map<const json*, Traits> traits_;
  std::map<const json*, Values> values_;
  size_t num_comparisons_ = 0;
};

}  // namespace

bool AreDisjointSchemas(const json& held, const json& came, const json& root) {
  Alternatives alternatives(root);
  for (size_t i = 0; i < held.size(); ++i) {
    const Traits& one = alternatives.TraitsOf(held[i]);
    for (size_t j = 0; j < came.size(); ++j) {
      if (i != j && !alternatives.AreDisjoint(one, alternatives.TraitsOf(came[j]))) return false;
    }
  }
  return true;
}

}  // namespace kvship
