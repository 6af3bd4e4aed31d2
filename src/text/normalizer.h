// The `normalizer` of a tokenizer.json: how text is rewritten before it is cut into words.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "text/regex.h"
#include "text/unicode.h"

namespace attune::text {

class JsonNode;

class Normalizer {
 public:
  // Refuses unknown types by name.
  void add(const JsonNode& node);
  bool empty() const { return steps_.empty(); }
  // `continuation`: nothing is put before the text.
  const Section& apply(const Section& section, bool continuation, Sections& sections) const;
  std::string apply(std::string_view text) const;
  // Whether a "Prepend" step puts something before every section (SentencePiece models converted to JSON).
  bool has_prepend() const;

 private:
  enum class Kind { form, lowercase, prepend, replace, replace_regex, strip };
  struct Step {
    Kind kind;
    NormalForm form = NormalForm::nfc;
    std::string find, put;
    std::optional<Regex> regex;
    bool left = false, right = false;
  };
  static const Section& run(const Step& step, const Section& section, bool continuation, Sections& sections);
  std::vector<Step> steps_;
};

}  // namespace attune::text
