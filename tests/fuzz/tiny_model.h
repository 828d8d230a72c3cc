// A model as far as requests are checked against it: configuration, tokenizer and chat template of
// a tiny GGUF file, without its weights.
#pragma once

#include <string>

#include "decode_service/served_model.h"
#include "engine/gguf.h"
#include "engine/gguf_config.h"
#include "engine/kv_shape.h"
#include "tests/engine/model_files.h"
#include "tests/fuzz/memory_file.h"

namespace kvship {

inline ServedModel LoadTinyModel() {
  const std::string bytes = TinyGguf().Bytes();
  const MemoryFile file(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  auto transformer = std::make_unique<Transformer>();
  transformer->config = *ReadGgufConfig(*GgufFile::Open(file.path()));
  ServedModel model;
  model.transformer = std::move(transformer);
  model.tokenizer = *Tokenizer::Load(file.path());
  model.chat_template = *ChatTemplate::Load(file.path(), *model.tokenizer);
  model.most_text_bytes = 1000;
  model.identity.fill(std::byte{7});
  return model;
}

inline const ServedModel& TinyServedModel() {
  static const ServedModel& model = *new ServedModel(LoadTinyModel());
  return model;
}

}  // namespace kvship
