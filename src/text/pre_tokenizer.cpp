#include "text/pre_tokenizer.h"

#include <algorithm>

#include "text/json_node.h"

namespace attune::text {

const char* const kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

ByteAlphabet::ByteAlphabet() {
  std::fill(std::begin(to_byte), std::end(to_byte), -1);
  uint32_t next = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool is_itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const uint32_t point = is_itself ? byte : next++;
    append_utf8(of_byte[byte], point);
    to_byte[point] = static_cast<int>(byte);
  }
}

const ByteAlphabet& ByteAlphabet::get() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

std::string ByteAlphabet::encode(std::string_view bytes) const {
  std::string out;
  for (char c : bytes) out += of_byte[static_cast<uint8_t>(c)];
  return out;
}

std::string ByteAlphabet::decode(std::string_view token) const {
  std::string out;
  for (size_t at = 0; at < token.size();) {
    const CodePoint c = code_point_at(token, at);
    if (c.value >= std::size(to_byte) || to_byte[c.value] < 0) return std::string(token);
    out += static_cast<char>(to_byte[c.value]);
    at += c.bytes;
  }
  return out;
}

PreTokenizer::Behavior PreTokenizer::behavior(const JsonNode& node) {
  static const std::pair<std::string_view, Behavior> known[] = {
      {"Removed", Behavior::removed},
      {"Isolated", Behavior::isolated},
      {"MergedWithPrevious", Behavior::merged_with_previous},
      {"MergedWithNext", Behavior::merged_with_next},
      {"Contiguous", Behavior::contiguous}};
  const JsonNode value = node.at("behavior");
  for (const auto& [name, behavior] : known)
    if (value.string() == name) return behavior;
  refuse("{}: behavior \"{}\" is not supported", value.where(), value.string());
}

void PreTokenizer::add_split(const JsonNode& node) {
  Step step{.kind = Kind::regex, .regex = {}, .literal = {}};
  step.in_alphabet = has_byte_level_;
  step.behavior = behavior(node);
  step.invert = node.flag("invert", false);
  const JsonNode pattern = node.at("pattern");
  if (const auto literal = pattern.find("String")) {
    step.kind = Kind::literal;
    step.literal = literal->string();
  } else {
    step.regex.emplace(std::string(pattern.at("Regex").string()), pattern.where());
  }
  steps_.push_back(std::move(step));
}

MetaspacePrefix metaspace_prefix(const JsonNode& node) {
  static const std::pair<std::string_view, MetaspacePrefix> known[] = {{"always", MetaspacePrefix::always},
                                                                       {"first", MetaspacePrefix::first},
                                                                       {"never", MetaspacePrefix::never}};
  const bool adds = node.flag("add_prefix_space", true);
  const auto scheme = node.find("prepend_scheme");
  if (!scheme) return adds ? MetaspacePrefix::always : MetaspacePrefix::never;
  for (const auto& [name, prefix] : known) {
    if (scheme->string() != name) continue;
    if (!adds && prefix != MetaspacePrefix::never)
      fail("{}: \"{}\" contradicts add_prefix_space: false", scheme->where(), name);
    return prefix;
  }
  refuse("{}: \"{}\" is not supported, expected always, first or never", scheme->where(), scheme->string());
}

void PreTokenizer::add_metaspace(const JsonNode& node) {
  if (has_byte_level_) refuse("{}: Metaspace behind ByteLevel is not supported", node.where());
  Step step{.kind = Kind::metaspace, .regex = {}, .literal = {}};
  step.literal = node.text("replacement", "\u2581");
  if (step.literal.empty()) fail("{}: replacement: expected one character", node.where());
  step.prefix = metaspace_prefix(node);
  step.cuts = node.flag("split", true);
  step.behavior = Behavior::merged_with_next;
  steps_.push_back(std::move(step));
}

void PreTokenizer::add_bert() {
  for (const auto& [kind, behavior] :
       {std::pair{Kind::white_space, Behavior::removed}, std::pair{Kind::punctuation, Behavior::isolated}}) {
    Step step{.kind = kind, .regex = {}, .literal = {}};
    step.behavior = behavior;
    steps_.push_back(std::move(step));
  }
}

void PreTokenizer::add(const JsonNode& node) {
  const std::string_view type = node.type();
  if (type == "Sequence") {
    for (const JsonNode& item : node.at("pretokenizers").items()) add(item);
    return;
  }
  if (type == "Split") return add_split(node);
  if (type == "Metaspace") return add_metaspace(node);
  if (type == "BertPreTokenizer") {
    if (has_byte_level_) refuse("{}: BertPreTokenizer behind ByteLevel is not supported", node.where());
    return add_bert();
  }
  Step step{.kind = Kind::regex, .regex = {}, .literal = {}};
  step.in_alphabet = has_byte_level_;
  if (type == "ByteLevel") {
    if (has_byte_level_) refuse("{}: a second ByteLevel is not supported", node.where());
    step.kind = Kind::byte_level;
    step.prefix_space = node.flag("add_prefix_space", true);
    if (node.flag("use_regex", true)) step.regex.emplace(kGpt2Pattern, node.where());
    has_byte_level_ = true;
  } else if (type == "Digits") {
    step.kind = Kind::numeric;
    step.behavior = node.flag("individual_digits", false) ? Behavior::isolated : Behavior::contiguous;
  } else if (type == "Punctuation") {
    step.kind = Kind::punctuation;
    if (node.find("behavior")) step.behavior = behavior(node);
  } else if (type == "WhitespaceSplit") {
    step.kind = Kind::white_space;
    step.behavior = Behavior::removed;
  } else if (type == "Whitespace") {
    step.kind = Kind::word_runs;
    step.behavior = Behavior::removed;
    step.invert = true;
  } else {
    refuse("{}: pre_tokenizer type \"{}\" is not supported", node.where(), type);
  }
  steps_.push_back(std::move(step));
}

// Runs of word characters and runs of what is neither that nor white space: \w+|[^\w\s]+ of the Rust regex
// crate, whose \w differs from that of the other patterns.
void PreTokenizer::word_runs(std::string_view text, std::vector<ByteRange>& out) {
  int last = 0;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    const int kind = is_white_space(c.value) ? 0 : is_word(c.value) ? 1 : 2;
    if (kind != 0 && kind == last)
      out.back().end = at + c.bytes;
    else if (kind != 0)
      out.push_back({at, at + c.bytes});
    last = kind;
    at += c.bytes;
  }
}

// What the step's pattern finds; each matching character by itself for the kinds that look at characters.
void PreTokenizer::matches(const Step& step, std::string_view text, std::vector<ByteRange>& out) {
  if (step.regex) return step.regex->find_all(text, out);
  if (step.kind == Kind::literal || step.kind == Kind::metaspace) {
    for (size_t at = text.find(step.literal); !step.literal.empty() && at != std::string_view::npos;
         at = text.find(step.literal, at + step.literal.size()))
      out.push_back({at, at + step.literal.size()});
    return;
  }
  if (step.kind == Kind::word_runs) return word_runs(text, out);
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    const bool found = step.kind == Kind::numeric       ? is_numeric(c.value)
                       : step.kind == Kind::white_space ? is_white_space(c.value)
                                                        : is_punctuation(c.value);
    if (found) out.push_back({at, at + c.bytes});
    at += c.bytes;
  }
}

// Matches and the gaps between them become words as the behavior says.
void PreTokenizer::cut(const Step& step, std::string_view text, size_t base, std::vector<ByteRange>& words) {
  std::vector<ByteRange> found;
  matches(step, text, found);
  struct Part {
    ByteRange range;
    bool is_match;
  };
  std::vector<Part> parts;
  size_t done = 0;
  for (const ByteRange& match : found) {
    if (done != match.begin) parts.push_back({{done, match.begin}, step.invert});
    parts.push_back({match, !step.invert});
    done = match.end;
  }
  if (done != text.size()) parts.push_back({{done, text.size()}, step.invert});

  const bool backward = step.behavior == Behavior::merged_with_next;
  if (backward) std::reverse(parts.begin(), parts.end());
  std::vector<ByteRange> cuts;
  bool last_match = false;
  for (const Part& part : parts) {
    const bool joins = step.behavior == Behavior::contiguous ? part.is_match == last_match
                       : step.behavior == Behavior::merged_with_previous || backward
                           ? part.is_match && !last_match
                           : false;
    last_match = part.is_match;
    if (joins && !cuts.empty()) {
      (backward ? cuts.back().begin : cuts.back().end) = backward ? part.range.begin : part.range.end;
    } else if (step.behavior != Behavior::removed || !part.is_match) {
      cuts.push_back(part.range);
    }
  }
  if (backward) std::reverse(cuts.begin(), cuts.end());
  for (const ByteRange& range : cuts)
    if (range.begin < range.end) words.push_back({base + range.begin, base + range.end});
}

void PreTokenizer::cut_word(const Step& step, std::string_view text, ByteRange word,
                            std::vector<ByteRange>& words) {
  const std::string_view part = text.substr(word.begin, word.end - word.begin);
  if (!step.in_alphabet) return cut(step, part, word.begin, words);
  // Each byte is one character of the alphabet; go there, cut, and count back.
  const ByteAlphabet& alphabet = ByteAlphabet::get();
  std::vector<ByteRange> cuts;
  cut(step, alphabet.encode(part), 0, cuts);
  size_t byte = 0, written = 0;
  auto byte_at = [&](size_t position) {
    while (written < position) written += alphabet.of_byte[static_cast<uint8_t>(part[byte++])].size();
    return word.begin + byte;
  };
  for (const ByteRange& range : cuts) {
    const size_t begin = byte_at(range.begin);
    words.push_back({begin, byte_at(range.end)});
  }
}

namespace {

// Puts a space before every word that has none.
const Section& with_spaces(const Section& section, bool continuation, Sections& sections,
                           std::vector<ByteRange>& words) {
  const std::string_view text = section.text();
  std::string out;
  Alignment alignment;
  size_t kept = 0;
  for (ByteRange& word : words) {
    out.append(text, kept, word.begin - kept);
    const size_t begin = out.size();
    if (text[word.begin] != ' ' && !(continuation && word.begin == 0)) {
      alignment.add({begin, begin + 1}, {word.begin, word.begin});
      out += ' ';
    }
    out.append(text, word.begin, word.end - word.begin);
    kept = word.end;
    word = {begin, out.size()};
  }
  if (alignment.empty()) return section;
  out.append(text, kept, text.size() - kept);
  return sections.emplace_back(section, std::move(out), std::move(alignment));
}

}  // namespace

// Writes every space of the words as the mark, and one more before the words that want it.
const Section& PreTokenizer::with_marks(const Step& step, const Section& section, bool continuation,
                                        Sections& sections, std::vector<ByteRange>& words) {
  const std::string_view text = section.text();
  const std::string& mark = step.literal;
  std::string out;
  Alignment alignment;
  size_t kept = 0;
  auto put = [&](ByteRange source) {
    alignment.add({out.size(), out.size() + mark.size()}, source);
    out += mark;
  };
  for (ByteRange& word : words) {
    out.append(text, kept, word.begin - kept);
    const size_t begin = out.size();
    const bool has_mark = text[word.begin] == ' ' || text.substr(word.begin).starts_with(mark);
    const bool wanted = step.prefix == MetaspacePrefix::always ||
                        (step.prefix == MetaspacePrefix::first && section.to_source(word).begin == 0);
    if (wanted && !has_mark && !(continuation && word.begin == 0)) put({word.begin, word.begin});
    kept = word.begin;
    for (size_t at = text.find(' ', kept); at < word.end; at = text.find(' ', kept)) {
      out.append(text, kept, at - kept);
      put({at, at + 1});
      kept = at + 1;
    }
    out.append(text, kept, word.end - kept);
    kept = word.end;
    word = {begin, out.size()};
  }
  if (alignment.empty()) return section;
  out.append(text, kept, text.size() - kept);
  return sections.emplace_back(section, std::move(out), std::move(alignment));
}

const Section& PreTokenizer::split(const Section& section, bool continuation, Sections& sections,
                                   std::vector<ByteRange>& words) const {
  const Section* current = &section;
  words.clear();
  if (section.text().empty()) return section;
  words.push_back({0, section.text().size()});
  std::vector<ByteRange> next;
  for (const Step& step : steps_) {
    if (step.kind == Kind::byte_level) {
      if (step.prefix_space) current = &with_spaces(*current, continuation, sections, words);
      if (!step.regex) continue;
    }
    if (step.kind == Kind::metaspace) {
      current = &with_marks(step, *current, continuation, sections, words);
      if (!step.cuts) continue;
    }
    next.clear();
    for (const ByteRange& word : words) cut_word(step, current->text(), word, next);
    words.swap(next);
  }
  return *current;
}

}  // namespace attune::text
