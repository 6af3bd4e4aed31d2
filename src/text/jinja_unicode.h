// Characters as Python's str sees them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace attune::text::jinja {

// The character at `position` and where the next one begins. A broken byte counts as one character.
char32_t decode_at(std::string_view bytes, size_t position, size_t& next);
void append_utf8(std::string& out, char32_t code);
// Byte offset of every character, and the size at the end.
std::vector<size_t> character_offsets(std::string_view bytes);
int64_t count_characters(std::string_view bytes);
bool is_space(char32_t code);
bool is_printable(char32_t code);
bool is_alphabetic(char32_t code);
bool is_digit(char32_t code);
bool is_upper(char32_t code);
bool is_lower(char32_t code);
std::string to_upper(char32_t code);
std::string to_lower(char32_t code);
std::string to_title(char32_t code);

}  // namespace attune::text::jinja
