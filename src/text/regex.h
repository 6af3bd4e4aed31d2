// Regular expressions of tokenizer files (Oniguruma syntax, as the Hugging Face library reads them), run by
// PCRE2. Character classes follow Unicode 16 whatever PCRE2 knows; constructs that mean something else to
// PCRE2 are refused.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace attune::text {

class Regex {
 public:
  // `where` names the pattern in messages ("tokenizer.json: pre_tokenizer.pattern").
  Regex(const std::string& pattern, const std::string& where);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  // All matches, left to right, not overlapping. `text` must be valid UTF-8. Safe to call from many threads.
  void find_all(std::string_view text, std::vector<ByteRange>& matches) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

// The PCRE2 pattern that means what `pattern` means to Oniguruma.
std::string pcre_pattern(const std::string& pattern, const std::string& where);

}  // namespace attune::text
