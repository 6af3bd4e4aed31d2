// Ids as they come → text that may be shown: whole characters, and nothing of a text that ends the answer.
#pragma once

#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace attune::infer {

class TextStream {
 public:
  // `stops`: texts that end the answer and are no part of it, wherever tokens begin and end.
  TextStream(const text::Tokenizer& tokenizer, std::vector<std::string> stops);

  // What can be shown now. What may be the beginning of a stop text is held back.
  std::string push(text::TokenId id);
  // The rest.
  std::string finish();
  bool stopped() const { return stopped_; }
  const std::string& text() const { return text_; }  // all that was shown

 private:
  std::string take(bool all);

  text::StreamDecoder decoder_;
  std::vector<std::string> stops_;
  std::string text_, pending_;
  bool stopped_ = false;
};

// `text` up to the first of these; all of it where none occurs.
std::string before_stop(const std::string& text, const std::vector<std::string>& stops);

}  // namespace attune::infer
