#include "text/jinja_unicode.h"

#include <utf8proc.h>

namespace attune::text::jinja {
namespace {

std::string encoded(char32_t code) {
  std::string out;
  append_utf8(out, code);
  return out;
}

}  // namespace

char32_t decode_at(std::string_view bytes, size_t position, size_t& next) {
  const unsigned char lead = bytes[position];
  next = position + 1;
  const int extra = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC2 ? 1 : 0;
  if (extra == 0 || lead > 0xF4 || position + extra >= bytes.size()) return lead < 0x80 ? lead : 0xFFFD;
  char32_t code = lead & (0x3F >> extra);
  for (int i = 1; i <= extra; ++i) {
    const unsigned char byte = bytes[position + i];
    if ((byte & 0xC0) != 0x80) return 0xFFFD;
    code = (code << 6) | (byte & 0x3F);
  }
  next = position + extra + 1;
  return code;
}

void append_utf8(std::string& out, char32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | (code >> 12));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (code >> 18));
    out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

std::vector<size_t> character_offsets(std::string_view bytes) {
  std::vector<size_t> offsets;
  offsets.reserve(bytes.size() + 1);
  for (size_t at = 0, next = 0; at < bytes.size(); at = next) {
    offsets.push_back(at);
    decode_at(bytes, at, next);
  }
  offsets.push_back(bytes.size());
  return offsets;
}

int64_t count_characters(std::string_view bytes) {
  int64_t count = 0;
  for (size_t at = 0, next = 0; at < bytes.size(); at = next, ++count) decode_at(bytes, at, next);
  return count;
}

bool is_space(char32_t code) {
  if (code < 0x80) return code == ' ' || (code >= 9 && code <= 13) || (code >= 0x1C && code <= 0x1F);
  return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) ||
         code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

bool is_printable(char32_t code) {
  if (code < 0x7F) return code >= 0x20;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

bool is_alphabetic(char32_t code) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}
bool is_digit(char32_t code) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code)) == UTF8PROC_CATEGORY_ND;
}
bool is_upper(char32_t code) {
  return utf8proc_isupper(static_cast<utf8proc_int32_t>(code)) != 0;
}
bool is_lower(char32_t code) {
  return utf8proc_islower(static_cast<utf8proc_int32_t>(code)) != 0;
}

std::string to_upper(char32_t code) {
  if (code == 0xDF) return "SS";
  if (code >= 0xFB00 && code <= 0xFB04) {
    static const char* const kLigatures[] = {"FF", "FI", "FL", "FFI", "FFL"};
    return kLigatures[code - 0xFB00];
  }
  return encoded(utf8proc_toupper(static_cast<utf8proc_int32_t>(code)));
}
std::string to_lower(char32_t code) {
  if (code == 0x130) return "i\xCC\x87";
  return encoded(utf8proc_tolower(static_cast<utf8proc_int32_t>(code)));
}
std::string to_title(char32_t code) {
  if (code == 0xDF) return "Ss";
  return encoded(utf8proc_totitle(static_cast<utf8proc_int32_t>(code)));
}

}  // namespace attune::text::jinja
