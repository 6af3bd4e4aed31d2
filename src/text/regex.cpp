#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "text/unicode.h"
#include "util/error.h"

namespace attune::text {
namespace {

// Enough for any sane pattern at one position of a text; a hostile one is an error instead of a hang.
constexpr uint32_t kMatchLimit = 20'000'000;
constexpr size_t kLongestPattern = 64 * 1024;

struct MatchDataDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

// One backtracking stack per thread; PCRE2's own (32 KiB) is too small for long words.
pcre2_jit_stack* jit_stack(void*) {
  struct Stack {
    pcre2_jit_stack* stack = pcre2_jit_stack_create(64 * 1024, 16 << 20, nullptr);
    ~Stack() { pcre2_jit_stack_free(stack); }
  };
  thread_local Stack stack;
  return stack.stack;
}

}  // namespace

struct Regex::Code {
  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;
  std::string pattern, where;
  ~Code() {
    pcre2_match_context_free(context);
    pcre2_code_free(code);
  }
};

Regex::Regex(const std::string& pattern, const std::string& where) : code_(std::make_unique<Code>()) {
  if (pattern.size() > kLongestPattern)
    refuse("{}: the regular expression has {} bytes, the limit is {}", where, pattern.size(),
           kLongestPattern);
  code_->pattern = pattern;
  code_->where = where;
  const std::string translated = pcre_pattern(pattern, where);
  int error = 0;
  PCRE2_SIZE at = 0;
  const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK | PCRE2_MULTILINE |
                           PCRE2_DOLLAR_ENDONLY | PCRE2_NEVER_BACKSLASH_C;
  if (!is_valid_utf8(translated)) refuse("{}: the regular expression is not UTF-8", where);
  code_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), options,
                              &error, &at, nullptr);
  if (!code_->code) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof message);
    refuse("{}: the regular expression \"{}\" is not valid: {}", where, pattern,
           reinterpret_cast<const char*>(message));
  }
  // Without JIT (a platform that has none) the interpreter gives the same matches, only slower.
  pcre2_jit_compile(code_->code, PCRE2_JIT_COMPLETE);
  code_->context = pcre2_match_context_create(nullptr);
  pcre2_set_match_limit(code_->context, kMatchLimit);
  pcre2_jit_stack_assign(code_->context, jit_stack, nullptr);
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

void Regex::find_all(std::string_view text, std::vector<ByteRange>& matches) const {
  if (text.empty()) return;
  std::unique_ptr<pcre2_match_data, MatchDataDeleter> data(pcre2_match_data_create(1, nullptr));
  const PCRE2_SIZE* found = pcre2_get_ovector_pointer(data.get());
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t from = 0, last_end = SIZE_MAX;
  while (from <= text.size()) {
    const int rc =
        pcre2_match(code_->code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, data.get(), code_->context);
    if (rc == PCRE2_ERROR_NOMATCH) return;
    if (rc < 0)
      fail(
          "{}: the regular expression \"{}\" takes too much time or memory on a text of {} bytes (PCRE2 "
          "error {})",
          code_->where, code_->pattern, text.size(), rc);
    const size_t begin = found[0], end = found[1];
    // As Oniguruma's iterator: an empty match right behind the last match is passed over.
    if (begin == end && end == last_end) {
      from = end + (end < text.size() ? code_point_at(text, end).bytes : 1);
      continue;
    }
    if (end < from || begin > end)
      fail("{}: the regular expression \"{}\" matches backwards", code_->where, code_->pattern);
    matches.push_back({begin, end});
    from = last_end = end;
  }
}

}  // namespace attune::text
