// The `pre_tokenizer` of a tokenizer.json: cuts text into words, inside which the model merges.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "text/regex.h"
#include "text/unicode.h"

namespace attune::text {

class JsonNode;

// The alphabet in which byte-level models write bytes: printable Latin-1 stands for itself, the rest for
// U+0100 on.
struct ByteAlphabet {
  static const ByteAlphabet& get();
  std::string encode(std::string_view bytes) const;
  // As the library's decoder: a token with any character outside of the alphabet stands for its own UTF-8.
  std::string decode(std::string_view token) const;

  std::string of_byte[256];
  int to_byte[324];  // by code point; -1 where not in the alphabet
 private:
  ByteAlphabet();
};

// The pattern of GPT-2, which the component ByteLevel applies.
extern const char* const kGpt2Pattern;

// When Metaspace puts "▁" before a word: always, only before what begins the text, or never.
enum class MetaspacePrefix { always, first, never };
// Of a component of type Metaspace (pre-tokenizer or decoder); understands the older `add_prefix_space`.
MetaspacePrefix metaspace_prefix(const JsonNode& node);

class PreTokenizer {
 public:
  // Refuses unknown types by name.
  void add(const JsonNode& node);
  // BERT's: words and single punctuation characters.
  void add_bert();
  bool has_byte_level() const { return has_byte_level_; }
  // Cuts the section; the words are ranges of the returned section, which may have got spaces put in.
  const Section& split(const Section& section, bool continuation, Sections& sections,
                       std::vector<ByteRange>& words) const;

 private:
  enum class Kind { regex, literal, numeric, white_space, punctuation, word_runs, byte_level, metaspace };
  enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };
  struct Step {
    Kind kind;
    Behavior behavior = Behavior::isolated;
    bool invert = false;
    bool in_alphabet = false;  // comes behind ByteLevel: sees the bytes written in its alphabet
    bool prefix_space = false;
    std::optional<Regex> regex;
    std::string literal;  // metaspace: what is written for a space
    MetaspacePrefix prefix = MetaspacePrefix::never;
    bool cuts = true;  // metaspace: cut before every mark
  };
  static const Section& with_marks(const Step& step, const Section& section, bool continuation,
                                   Sections& sections, std::vector<ByteRange>& words);
  void add_metaspace(const JsonNode& node);
  void add_split(const JsonNode& node);
  static Behavior behavior(const JsonNode& node);
  static void word_runs(std::string_view text, std::vector<ByteRange>& out);
  static void matches(const Step& step, std::string_view text, std::vector<ByteRange>& out);
  static void cut(const Step& step, std::string_view text, size_t base, std::vector<ByteRange>& words);
  static void cut_word(const Step& step, std::string_view text, ByteRange word,
                       std::vector<ByteRange>& words);

  std::vector<Step> steps_;
  bool has_byte_level_ = false;
};

}  // namespace attune::text
