// The readers of untrusted input, one function each, for libFuzzer (scripts/fuzz.sh) and for the replay of
// the committed corpus (tests/fuzz/replay_test.cpp). Each swallows attune::Error, the one way in which bad
// input may end.
#pragma once

#include <cstddef>
#include <cstdint>

namespace attune::fuzz {

int tokenizer_json(const uint8_t* data, size_t size);
int sentencepiece_model(const uint8_t* data, size_t size);
int chat_template(const uint8_t* data, size_t size);
int safetensors(const uint8_t* data, size_t size);
int torch_bin(const uint8_t* data, size_t size);
int records(const uint8_t* data, size_t size);
int config(const uint8_t* data, size_t size);
int token_file(const uint8_t* data, size_t size);

}  // namespace attune::fuzz
