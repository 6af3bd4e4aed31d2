#include "eval/metrics.h"

#include <utf8proc.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <span>

#include "text/unicode.h"

namespace attune::eval {
namespace {

using text::CodePoint;

// Scripts that are written without spaces between words.
bool is_cjk(uint32_t c) {
  return (c >= 0x3040 && c <= 0x30FF) || (c >= 0x31F0 && c <= 0x31FF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x4E00 && c <= 0x9FFF) ||
         (c >= 0xAC00 && c <= 0xD7AF) || (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x20000 && c <= 0x3FFFF);
}

bool is_word_part(uint32_t c) {
  const char kind = text::general_category(c)[0];
  return kind == 'L' || kind == 'N' || kind == 'M';
}

bool is_mark(uint32_t c) { return text::general_category(c)[0] == 'P' || (c < 0x80 && text::is_punctuation(c)); }

template <class OnCharacter>
void for_characters(std::string_view text, OnCharacter on_character) {
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = text::code_point_at(text, at);
    on_character(c.value, text.substr(at, c.bytes));
    at += c.bytes;
  }
}

uint32_t lower(uint32_t c) { return static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))); }

// Collects tokens: characters are appended to one until it is closed.
class Collector {
 public:
  void append(uint32_t c) { text::append_utf8(current_, c); }
  void close() {
    if (!current_.empty()) tokens_.push_back(std::move(current_));
    current_.clear();
  }
  void alone(uint32_t c) {
    close();
    append(c);
    close();
  }
  Tokens take() {
    close();
    return std::move(tokens_);
  }

 private:
  Tokens tokens_;
  std::string current_;
};

using Counts = std::map<std::vector<std::string_view>, int64_t>;

Counts ngrams(const Tokens& tokens, size_t n) {
  Counts counts;
  for (size_t i = 0; i + n <= tokens.size(); ++i) ++counts[{tokens.begin() + static_cast<ptrdiff_t>(i), tokens.begin() + static_cast<ptrdiff_t>(i + n)}];
  return counts;
}

int64_t common(const Counts& a, const Counts& b) {
  int64_t n = 0;
  for (const auto& [gram, count] : a)
    if (const auto it = b.find(gram); it != b.end()) n += std::min(count, it->second);
  return n;
}

double f1(int64_t hits, int64_t predicted, int64_t expected) {
  return hits == 0 ? 0 : 2.0 * static_cast<double>(hits) / static_cast<double>(predicted + expected);
}

int64_t longest_common_subsequence(const Tokens& a, const Tokens& b) {
  std::vector<int64_t> row(b.size() + 1, 0);
  for (const std::string& x : a) {
    int64_t diagonal = 0;
    for (size_t j = 1; j <= b.size(); ++j) {
      const int64_t up = row[j];
      row[j] = x == b[j - 1] ? diagonal + 1 : std::max(up, row[j - 1]);
      diagonal = up;
    }
  }
  return row.back();
}

double rouge_n(const Tokens& prediction, const Tokens& reference, size_t n) {
  const auto grams = [&](const Tokens& t) { return t.size() < n ? int64_t{0} : static_cast<int64_t>(t.size() - n + 1); };
  return f1(common(ngrams(prediction, n), ngrams(reference, n)), grams(prediction), grams(reference));
}

double brevity(int64_t predicted, int64_t expected) {
  if (predicted > expected) return 1;
  return predicted == 0 ? 0 : std::exp(1 - static_cast<double>(expected) / static_cast<double>(predicted));
}

}  // namespace

std::string trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1));
}

bool exact_match(std::string_view prediction, std::string_view reference) { return trimmed(prediction) == trimmed(reference); }

Tokens words(std::string_view text) {
  Collector out;
  for_characters(text, [&](uint32_t c, std::string_view) {
    if (is_cjk(c)) out.alone(c);
    else if (is_word_part(c)) out.append(lower(c));
    else out.close();
  });
  return out.take();
}

Tokens answer_tokens(std::string_view text) {
  Collector out;
  for_characters(text, [&](uint32_t c, std::string_view) {
    if (is_mark(c)) return;
    if (is_cjk(c)) out.alone(c);
    else if (text::is_white_space(c)) out.close();
    else out.append(lower(c));
  });
  Tokens tokens = out.take();
  std::erase_if(tokens, [](const std::string& t) { return t == "a" || t == "an" || t == "the"; });
  return tokens;
}

Tokens bleu_tokens(std::string_view text) {
  Collector out;
  for_characters(text, [&](uint32_t c, std::string_view) {
    if (text::is_white_space(c)) out.close();
    else if (!is_cjk(c) && is_word_part(c)) out.append(c);
    else out.alone(c);
  });
  return out.take();
}

Tokens characters(std::string_view text) {
  Tokens out;
  for_characters(text, [&](uint32_t, std::string_view bytes) { out.emplace_back(bytes); });
  return out;
}

double token_f1(std::string_view prediction, std::string_view reference) {
  const Tokens p = answer_tokens(prediction), r = answer_tokens(reference);
  if (p.empty() || r.empty()) return p.empty() && r.empty() ? 1 : 0;
  return f1(common(ngrams(p, 1), ngrams(r, 1)), static_cast<int64_t>(p.size()), static_cast<int64_t>(r.size()));
}

Rouge rouge(std::string_view prediction, std::string_view reference) {
  const Tokens p = words(prediction), r = words(reference);
  return {rouge_n(p, r, 1), rouge_n(p, r, 2), f1(longest_common_subsequence(p, r), static_cast<int64_t>(p.size()), static_cast<int64_t>(r.size()))};
}

double sentence_bleu_4(std::string_view prediction, std::string_view reference) {
  const Tokens p = characters(prediction), r = characters(reference);
  double log_sum = 0, zeros = 0;
  for (size_t n = 1; n <= 4; ++n) {
    const int64_t hits = common(ngrams(p, n), ngrams(r, n));
    const double total = std::max(1.0, static_cast<double>(p.size()) - static_cast<double>(n) + 1);
    if (n == 1 && hits == 0) return 0;
    log_sum += std::log(hits > 0 ? static_cast<double>(hits) / total : 1 / (std::exp2(++zeros) * total));
  }
  return brevity(static_cast<int64_t>(p.size()), static_cast<int64_t>(r.size())) * std::exp(log_sum / 4);
}

void CorpusBleu::add(std::string_view prediction, std::string_view reference) {
  const Tokens p = bleu_tokens(prediction), r = bleu_tokens(reference);
  predicted_ += static_cast<int64_t>(p.size());
  expected_ += static_cast<int64_t>(r.size());
  for (size_t n = 1; n <= 4; ++n) {
    matches_[n - 1] += common(ngrams(p, n), ngrams(r, n));
    totals_[n - 1] += p.size() < n ? 0 : static_cast<int64_t>(p.size() - n + 1);
  }
}

double CorpusBleu::score() const {
  double log_sum = 0;
  for (size_t i = 0; i < 4; ++i) {
    if (matches_[i] == 0) return 0;
    log_sum += std::log(static_cast<double>(matches_[i]) / static_cast<double>(totals_[i]));
  }
  return brevity(predicted_, expected_) * std::exp(log_sum / 4);
}

}  // namespace attune::eval
