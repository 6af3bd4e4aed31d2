#include "util/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "util/error.h"

namespace attune {

struct Pattern::Code {
  pcre2_code* code = nullptr;
  pcre2_match_data* data = nullptr;
  pcre2_match_context* context = nullptr;
  ~Code() {
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
    pcre2_code_free(code);
  }
};

Pattern::Pattern(const std::string& expression, const std::string& where)
    : code_(std::make_unique<Code>()), expression_(expression), where_(where) {
  int error = 0;
  PCRE2_SIZE at = 0;
  code_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(), PCRE2_NEVER_BACKSLASH_C,
                              &error, &at, nullptr);
  if (!code_->code) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof message);
    refuse("{}: the regular expression \"{}\" is not valid at character {}: {}", where, expression, at + 1,
           reinterpret_cast<const char*>(message));
  }
  code_->data = pcre2_match_data_create(1, nullptr);
  code_->context = pcre2_match_context_create(nullptr);
  pcre2_set_match_limit(code_->context, 1'000'000);
}

Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;

bool Pattern::found_in(const std::string& name) const {
  const int rc = pcre2_match(code_->code, reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(), 0, 0, code_->data, code_->context);
  if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
    refuse("{}: the regular expression \"{}\" takes too long on \"{}\"; write it simpler", where_, expression_, name);
  return rc >= 0;
}

}  // namespace attune
