// CompileWork estimates how long XGrammar compiles a schema, from what the schema is made of. For
// each state of its automata in which a token may begin, XGrammar tries the vocabulary, and goes
// through the list of all rules: the time grows with the product of both. An array whose items have
// room between minItems and maxItems is a rule for each of them. Part of json_schema.h.
#pragma once

#include <cstddef>

namespace kvship {

struct CompileWork {
  size_t states = 0;
  size_t rules = 0;
  size_t microseconds = 0;  // of trying the vocabulary, beside what each state takes

  CompileWork& operator+=(const CompileWork& more) {
    states += more.states;
    rules += more.rules;
    microseconds += more.microseconds;
    return *this;
  }

  // Measured with XGrammar 0.2.9 and 49,152 tokens, on a core of 2.8 GHz. With 150,000 tokens what
  // `microseconds` has takes three to four times as long, and the rest hardly longer.
  size_t TotalMicroseconds() const {
    constexpr size_t kMicrosecondsPerState = 8, kNanosecondsPerStateAndRule = 13;
    return microseconds + states * kMicrosecondsPerState +
           states * rules * kNanosecondsPerStateAndRule / 1000;
  }
};

}  // namespace kvship
