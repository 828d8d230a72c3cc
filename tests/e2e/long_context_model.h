// The tiny golden model with a context that no test fills, so that prompts and answers may take as
// long as a test needs on any machine.
#pragma once

#include "tests/engine/edited_model.h"

namespace kvship {

class LongContextModel {
 public:
  LongContextModel() {
    model_.config["max_position_embeddings"] = 1 << 18;
    model_.Write();
  }
  const std::string& path() const { return model_.folder().path(); }

 private:
  EditedModel model_;
};

}  // namespace kvship
