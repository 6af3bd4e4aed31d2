// Tokenizer files: load, then encode and decode hard texts. What is encoded must decode again, with offsets
// inside the text.
#include <cstdlib>

#include "fuzz/input.h"
#include "fuzz/targets.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace attune::fuzz {
namespace {

void use(const text::Tokenizer& tokenizer) {
  for (const std::string& sample : {std::string("Hello  world, it's 12 <s>\n"),
                                    std::string("\u4f60\u597d\u2581\u2581a\u0301 \U0001F642 \ufb01"),
                                    std::string("\xff\xc0 a\0b", 6), std::string(300, 'a')}) {
    text::EncodeOptions options;
    options.add_special_tokens = true;
    const text::ByteRange user{1, sample.size() / 2};
    options.user_text = {&user, 1};
    const text::Encoding encoding = tokenizer.encode(sample, options);
    if (encoding.ids.size() != encoding.offsets.size()) std::abort();
    for (const text::ByteRange& range : encoding.offsets)
      if (range.begin > range.end || range.end > sample.size()) std::abort();
    text::StreamDecoder stream(tokenizer);
    std::string streamed;
    for (text::TokenId id : encoding.ids) streamed += stream.push(id);
    if (!text::is_valid_utf8(streamed + stream.finish())) std::abort();
    if (!text::is_valid_utf8(tokenizer.decode(encoding.ids))) std::abort();
  }
}

int load(const char* name, const uint8_t* data, size_t size) {
  static const InputDirectory json, model;
  const InputDirectory& directory = std::string_view(name) == "tokenizer.json" ? json : model;
  return guarded([&] {
    const auto file = directory.write(name, data, size);
    struct Removed {
      const std::filesystem::path& file;
      ~Removed() { std::filesystem::remove(file); }
    } removed{file};
    use(*text::Tokenizer::load(directory.path()));
  });
}

}  // namespace

int tokenizer_json(const uint8_t* data, size_t size) {
  return load("tokenizer.json", data, size);
}

int sentencepiece_model(const uint8_t* data, size_t size) {
  return load("tokenizer.model", data, size);
}

}  // namespace attune::fuzz
