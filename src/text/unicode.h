// UTF-8 and Unicode as the tokenizers of the Hugging Face library see them, and the way back from a changed
// text to the bytes it came from.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace attune::text {

struct CodeRange {
  uint32_t first;
  uint32_t last;
};

// One character of a text; `bytes` is 1 and `valid` false where no UTF-8 starts at `at`.
struct CodePoint {
  uint32_t value = 0xFFFD;
  uint32_t bytes = 1;
  bool valid = false;
};
CodePoint code_point_at(std::string_view text, size_t at);
// The character that ends right before `end`; the text must be valid UTF-8 there.
CodePoint code_point_before(std::string_view text, size_t end);
void append_utf8(std::string& out, uint32_t code_point);
bool is_valid_utf8(std::string_view text);
// Bytes at the end that begin a character but do not finish it (0 to 3).
size_t unfinished_tail(std::string_view text);

// How bytes that are no UTF-8 are shown: one U+FFFD per ill-formed sequence (Rust, Python) or one per byte.
enum class Replacement { per_sequence, per_byte };
std::string to_valid_utf8(std::string_view bytes, Replacement replacement = Replacement::per_sequence);

// Two letters, e.g. "Lo".
const char* general_category(uint32_t code_point);
bool is_white_space(uint32_t code_point);
bool is_numeric(uint32_t code_point);          // N*, as the library's Digits knows them
bool is_word(uint32_t code_point);             // \w of the Rust regex crate
bool is_punctuation(uint32_t code_point);      // P* and the ASCII symbols, as the library knows them
bool is_combining_mark(uint32_t code_point);   // M*, as the library's StripAccents knows them
bool is_nonspacing_mark(uint32_t code_point);  // Mn, as the library's BertNormalizer knows them
bool is_bert_control(uint32_t code_point);     // C*, as the library's BertNormalizer knows them
bool is_late_mark(uint32_t code_point);        // a combining mark that the library's normaliser does not know
bool is_late_decomposition(uint32_t code_point);  // decomposes, but not for the library's normaliser
// Characters younger than Unicode 14 of a category ("L", "Lo") as "\x{…}-\x{…}" for use inside a PCRE2 class.
std::string new_characters_class(std::string_view category);
std::string further_word_class();
std::string new_han_class();

// Where the parts of a changed text came from. Edits are added left to right; between them text was kept.
class Alignment {
 public:
  void add(ByteRange changed, ByteRange source) { edits_.push_back({changed, source}); }
  bool empty() const { return edits_.empty(); }
  ByteRange to_source(ByteRange changed) const;

 private:
  struct Edit {
    ByteRange changed, source;
  };
  std::vector<Edit> edits_;
};

// A part of a text, perhaps changed, that knows its place in the text the caller gave.
class Section {
 public:
  explicit Section(std::string_view whole) : text_(whole) {}
  // The bytes [range) of `parent`, unchanged.
  Section(const Section& parent, ByteRange range)
      : text_(parent.text().substr(range.begin, range.end - range.begin)),
        parent_(&parent),
        base_(range.begin) {}
  // A changed `parent`.
  Section(const Section& parent, std::string changed, Alignment alignment)
      : owned_(std::move(changed)), text_(owned_), parent_(&parent), alignment_(std::move(alignment)) {}
  Section(const Section&) = delete;
  Section& operator=(const Section&) = delete;

  std::string_view text() const { return text_; }
  ByteRange to_source(ByteRange range) const;

 private:
  std::string owned_;
  std::string_view text_;
  const Section* parent_ = nullptr;
  size_t base_ = 0;
  Alignment alignment_;
};

// Keeps sections in place while an encode call runs.
using Sections = std::deque<Section>;

// The text itself when it is UTF-8, otherwise with U+FFFD for what is not.
const Section& valid_section(std::string_view text, Sections& sections,
                             Replacement replacement = Replacement::per_sequence);

enum class NormalForm { nfc, nfd, nfkc, nfkd };
// The section in the normal form; the same object when nothing changes.
const Section& normalize(const Section& section, NormalForm form, Sections& sections);
std::string normalize(std::string_view text, NormalForm form);

}  // namespace attune::text
