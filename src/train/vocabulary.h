// The vocabulary of a run: the base's, or one that grows by add_tokens and add_special_tokens, or that of an adapter.
#pragma once

#include <memory>

#include "formats/model_directory.h"
#include "models/decoder.h"
#include "text/tokenizer.h"
#include "train/config.h"
#include "util/files.h"

namespace attune::train {

struct Vocabulary {
  fs::path directory;  // where the tokenizer's files are, and what goes with them into the result
  std::shared_ptr<TemporaryDirectory> own;  // that one, where they are neither the base's nor …

  struct Row {
    text::TokenId id;
    std::vector<text::TokenId> parts;  // what the tokenizer made of the token's text before
  };
  std::vector<Row> rows;  // of new tokens
  int64_t known = 0;      // tokens that were there before
};

// Loads the tokenizer and puts the new tokens into it. Where the base has no row for one, `architecture` grows, which resize_vocab must
// allow; rows that pad the vocabulary are used first, and it never shrinks. `tokenizer` may stay empty where none is there and no token
// is to be added.
Vocabulary make_vocabulary(const Config& config, const formats::ModelDirectory& base, models::DecoderConfig& architecture,
                           std::unique_ptr<text::Tokenizer>& tokenizer);

// Fills the rows of new tokens in embedding and head, with the base's weights in place: the mean of all rows before, of those of `parts`, or
// the mean with noise. Refuses tables that are not trained, where the tokens would never be learnt.
void begin_rows(const Vocabulary& vocabulary, const Config& config, models::Decoder& model);

}  // namespace attune::train
