#include "data/implicit_prompt.h"

#include <algorithm>
#include <array>

namespace attune::data {
namespace {

constexpr size_t kNone = std::string_view::npos;
constexpr std::array<std::string_view, 2> kMarks{"Human:", "Assistant:"};

std::string trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  return begin == kNone ? "" : std::string(text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1));
}

// The place of the next mark, that begins a paragraph, and which it is.
std::pair<size_t, size_t> next_mark(std::string_view text, size_t from) {
  for (size_t at = text.find("\n\n", from); at != kNone; at = text.find("\n\n", at + 1))
    for (size_t m = 0; m < kMarks.size(); ++m)
      if (text.substr(at + 2).starts_with(kMarks[m])) return {at, m};
  return {kNone, 0};
}

}  // namespace

std::vector<text::Message> marked_turns(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  std::vector<text::Message> out;
  if (begin == kNone || !text.substr(begin).starts_with(kMarks[0])) return out;
  for (size_t at = begin, mark = 0; at != kNone;) {
    const size_t content = at + kMarks[mark].size();
    const auto [next, which] = next_mark(text, content);
    out.push_back({mark == 0 ? "user" : "assistant", trimmed(text.substr(content, next == kNone ? kNone : next - content)), 1, ""});
    at = next == kNone ? kNone : next + 2;
    mark = which;
  }
  return out;
}

size_t common_prompt(std::string_view a, std::string_view b) {
  const auto common = static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
  const std::string_view shared = a.substr(0, common);
  size_t sentence = 0;
  for (size_t i = 0; i < shared.size(); ++i) {
    if (shared[i] == '\n') sentence = i;
    const bool mark = shared[i] == '.' || shared[i] == '?' || shared[i] == '!';
    if (mark && i + 1 < shared.size() && (shared[i + 1] == ' ' || shared[i + 1] == '\n')) sentence = i + 1;
    for (const std::string_view wide : {"。", "？", "！"})
      if (shared.substr(i).starts_with(wide)) sentence = i + wide.size();
  }
  if (sentence == 0) sentence = shared.rfind(' ') == kNone ? 0 : shared.rfind(' ');
  return shared.substr(0, sentence).find_first_not_of(" \t\r\n") == kNone ? 0 : sentence;
}

}  // namespace attune::data
