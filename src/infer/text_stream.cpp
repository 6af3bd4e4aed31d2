#include "infer/text_stream.h"

#include <algorithm>

namespace attune::infer {
namespace {

// Where the text ends because a stop text begins; npos where none does.
size_t stop_in(const std::string& text, const std::vector<std::string>& stops) {
  size_t first = std::string::npos;
  for (const std::string& stop : stops) first = std::min(first, text.find(stop));
  return first;
}

// Bytes at the end of `text` that may be the beginning of a stop text.
size_t held_back(const std::string& text, const std::vector<std::string>& stops) {
  size_t most = 0;
  for (const std::string& stop : stops)
    for (size_t n = std::min(stop.size() - 1, text.size()); n > most; --n)
      if (text.compare(text.size() - n, n, stop, 0, n) == 0) most = n;
  return most;
}

}  // namespace

TextStream::TextStream(const text::Tokenizer& tokenizer, std::vector<std::string> stops) : decoder_(tokenizer), stops_(std::move(stops)) {
  std::erase(stops_, "");
}

std::string TextStream::take(bool all) {
  if (stopped_) return "";
  size_t end = stop_in(pending_, stops_);
  if (end != std::string::npos) stopped_ = true;
  else end = pending_.size() - (all ? 0 : held_back(pending_, stops_));
  const std::string out = pending_.substr(0, end);
  pending_.erase(0, end);
  text_ += out;
  return out;
}

std::string TextStream::push(text::TokenId id) {
  pending_ += decoder_.push(id);
  return take(false);
}

std::string TextStream::finish() {
  pending_ += decoder_.finish();
  return take(true);
}

std::string before_stop(const std::string& text, const std::vector<std::string>& stops) { return text.substr(0, stop_in(text, stops)); }

}  // namespace attune::infer
