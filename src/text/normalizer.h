// The `normalizer` of a tokenizer.json: how text is rewritten before it is cut into words.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "text/charsmap.h"
#include "text/regex.h"
#include "text/unicode.h"

namespace attune::text {

class JsonNode;

struct BertNormalizerOptions {
  bool clean_text = true;            // drops control characters, every white space becomes a plain one
  bool handle_chinese_chars = true;  // every Chinese character is a word
  bool strip_accents = true;
  bool lowercase = true;
};

class Normalizer {
 public:
  // Refuses unknown types by name.
  void add(const JsonNode& node);
  void add_bert(const BertNormalizerOptions& options);
  bool empty() const { return steps_.empty(); }
  // `continuation`: nothing is put before the text.
  const Section& apply(const Section& section, bool continuation, Sections& sections) const;
  std::string apply(std::string_view text) const;

 private:
  enum class Kind {
    form,
    lowercase,
    prepend,
    replace,
    replace_regex,
    strip,
    strip_accents,
    strip_nonspacing,
    clean,
    space_chinese,
    charsmap
  };
  struct Step {
    Kind kind;
    NormalForm form = NormalForm::nfc;
    std::string find, put;
    std::optional<Regex> regex;
    std::optional<Charsmap> charsmap;
    bool left = false, right = false;
  };
  void add_kind(Kind kind);
  void add_form(NormalForm form);
  static const Section& run(const Step& step, const Section& section, bool continuation, Sections& sections);
  std::vector<Step> steps_;
};

}  // namespace attune::text
