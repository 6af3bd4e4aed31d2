#include "text/token_decoder.h"

#include "text/json_node.h"
#include "text/pre_tokenizer.h"
#include "text/unicode.h"
#include "text/word_model.h"

namespace attune::text {
namespace {

std::string replace_all(std::string_view text, const std::string& find, const std::string& put) {
  std::string out;
  size_t kept = 0;
  for (size_t at = text.find(find); !find.empty() && at != std::string_view::npos;
       at = text.find(find, kept)) {
    out.append(text, kept, at - kept).append(put);
    kept = at + find.size();
  }
  return out.append(text.substr(kept));
}

// English spacing as the reference library repairs it.
std::string cleaned(std::string text) {
  static const std::pair<std::string, std::string> rules[] = {
      {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
      {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [find, put] : rules) text = replace_all(text, find, put);
  return text;
}

std::string stripped(std::string_view token, const std::string& what, size_t left, size_t right) {
  for (; left > 0 && token.starts_with(what); --left) token.remove_prefix(what.size());
  for (; right > 0 && token.ends_with(what); --right) token.remove_suffix(what.size());
  return std::string(token);
}

}  // namespace

void TokenDecoder::add(const JsonNode& node) {
  const std::string_view type = node.type();
  if (type == "Sequence") {
    for (const JsonNode& item : node.at("decoders").items()) add(item);
    return;
  }
  Step step{.kind = Kind::fuse, .find = {}, .put = {}, .regex = {}};
  if (type == "ByteLevel") {
    step.kind = Kind::byte_level;
  } else if (type == "ByteFallback") {
    step.kind = Kind::byte_fallback;
  } else if (type == "Replace") {
    step.kind = Kind::replace;
    const JsonNode pattern = node.at("pattern");
    if (const auto literal = pattern.find("String"))
      step.find = literal->string();
    else
      step.regex.emplace(std::string(pattern.at("Regex").string()), pattern.where());
    step.put = node.at("content").string();
  } else if (type == "Strip") {
    step.kind = Kind::strip;
    step.find = node.at("content").string();
    if (step.find.empty()) fail("{}: content: expected one character", node.where());
    for (const auto& [key, into] : {std::pair{"start", &step.left}, std::pair{"stop", &step.right}}) {
      const int64_t count = node.at(key).integer();
      if (count < 0) fail("{}: {}: expected a count", node.where(), key);
      *into = static_cast<size_t>(count);
    }
  } else if (type == "Metaspace") {
    step.kind = Kind::metaspace;
    step.find = node.text("replacement", "\u2581");
    step.drops_first = metaspace_prefix(node) != MetaspacePrefix::never;
  } else if (type == "WordPiece") {
    return add_word_piece(node.text("prefix", "##"), node.flag("cleanup", true));
  } else if (type != "Fuse") {
    refuse("{}: decoder type \"{}\" is not supported", node.where(), type);
  }
  steps_.push_back(std::move(step));
}

void TokenDecoder::add_word_piece(std::string prefix, bool cleanup) {
  Step step{.kind = Kind::word_piece, .find = std::move(prefix), .put = {}, .regex = {}};
  step.cleanup = cleanup;
  steps_.push_back(std::move(step));
}

// What a step makes of a token by itself.
std::string TokenDecoder::one(const Step& step, std::string token, bool first) {
  switch (step.kind) {
    case Kind::byte_level:
      return ByteAlphabet::get().decode(token);
    case Kind::replace: {
      if (!step.regex) return replace_all(token, step.find, step.put);
      if (!is_valid_utf8(token)) return token;
      std::vector<ByteRange> matches;
      step.regex->find_all(token, matches);
      std::string out;
      size_t kept = 0;
      for (const ByteRange& match : matches) {
        out.append(token, kept, match.begin - kept).append(step.put);
        kept = match.end;
      }
      return out.append(token, kept);
    }
    case Kind::strip:
      return stripped(token, step.find, step.left, step.right);
    case Kind::metaspace:
      return replace_all(token, step.find, first && step.drops_first ? "" : " ");
    case Kind::word_piece:
      if (!first && token.starts_with(step.find))
        token.erase(0, step.find.size());
      else if (!first)
        token.insert(0, " ");
      return step.cleanup ? cleaned(std::move(token)) : token;
    case Kind::byte_fallback:
    case Kind::fuse:
      return token;
  }
  return token;
}

// A run of byte tokens is the text it forms, or, where it forms none, one U+FFFD a byte.
void TokenDecoder::byte_runs(std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string run;
  auto finish = [&] {
    if (!run.empty() && is_valid_utf8(run)) {
      out.push_back(run);
    } else {
      for (size_t i = 0; i < run.size(); ++i) out.push_back("\ufffd");
    }
    run.clear();
  };
  for (std::string& token : tokens) {
    const int byte = byte_of_token(token);
    if (byte >= 0) {
      run += static_cast<char>(byte);
      continue;
    }
    finish();
    out.push_back(std::move(token));
  }
  finish();
  tokens = std::move(out);
}

std::string TokenDecoder::decode(std::vector<std::string> tokens) const {
  auto join = [&] {
    std::string all;
    for (const std::string& token : tokens) {
      if (steps_.empty() && !all.empty()) all += ' ';  // as the reference library without a decoder
      all += token;
    }
    return all;
  };
  for (const Step& step : steps_) {
    if (step.kind == Kind::byte_fallback) {
      byte_runs(tokens);
    } else if (step.kind == Kind::fuse) {
      tokens = {join()};
    } else {
      for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = one(step, std::move(tokens[i]), i == 0);
      if (step.kind == Kind::byte_level) tokens = {to_valid_utf8(join())};
    }
  }
  return to_valid_utf8(join());
}

std::string TokenDecoder::token_bytes(std::string_view token, bool first) const {
  std::string out(token);
  if (steps_.empty() && !first) out.insert(0, " ");
  bool fused = false, is_byte = false;
  for (const Step& step : steps_) {
    fused |= step.kind == Kind::fuse || step.kind == Kind::byte_level;
    const int byte = step.kind == Kind::byte_fallback && !fused ? byte_of_token(out) : -1;
    if (byte >= 0) {
      out = static_cast<char>(byte);
      is_byte = true;
    } else if (fused && step.kind == Kind::strip) {
      // Of the fused text, so at its two ends only; where it ends is not known here.
      if (first) out = stripped(out, step.find, step.left, 0);
    } else if (!is_byte || step.kind == Kind::strip) {
      out = one(step, std::move(out), first);
    }
  }
  return out;
}

}  // namespace attune::text
