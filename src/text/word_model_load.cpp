// The `model` of a tokenizer.json.
#include <algorithm>

#include "text/bpe_model.h"
#include "text/json_node.h"
#include "text/pipeline_tokenizer.h"
#include "text/unigram_model.h"
#include "text/word_piece_model.h"

namespace attune::text {
namespace {

template <class Range>
size_t count_of(const Range& range) {
  size_t count = 0;
  for (auto entry = range.begin(); entry != range.end(); ++entry) ++count;
  return count;
}

void read_vocabulary(const JsonNode& vocab, Vocabulary& vocabulary) {
  const simdjson::dom::object entries = vocab.object();
  const size_t count = count_of(entries);
  vocabulary.reserve(count);
  for (const auto& [token, value] : entries) {
    int64_t id = -1;
    if (value.get(id) != simdjson::SUCCESS) fail("{}: \"{}\": expected an integer", vocab.where(), token);
    check_token_id(id, count, vocab.where());
    if (!vocabulary.add(token, static_cast<TokenId>(id)))
      fail("{}: token \"{}\" or its id {} stands there twice", vocab.where(), token, id);
  }
}

// "a b" or ["a", "b"].
std::pair<std::string_view, std::string_view> merge_pair(const JsonNode& merges, simdjson::dom::element entry,
                                                         uint32_t rank) {
  std::string_view left, right;
  simdjson::dom::array pair;
  if (entry.get(left) == simdjson::SUCCESS) {
    const size_t space = left.find(' ');
    if (space == std::string_view::npos || left.find(' ', space + 1) != std::string_view::npos)
      fail("{}[{}]: expected two tokens with a space between them", merges.where(), rank);
    return {left.substr(0, space), left.substr(space + 1)};
  }
  if (entry.get(pair) != simdjson::SUCCESS || pair.size() != 2 || pair.at(0).get(left) != simdjson::SUCCESS ||
      pair.at(1).get(right) != simdjson::SUCCESS)
    fail("{}[{}]: expected \"a b\" or [\"a\", \"b\"]", merges.where(), rank);
  return {left, right};
}

void read_merges(const JsonNode& merges, BpeModel& model) {
  const simdjson::dom::array entries = merges.array();
  model.reserve_merges(count_of(entries));
  const Vocabulary& vocabulary = model.vocabulary();
  const size_t prefix = model.options().continuing_prefix.size();
  std::string merged;
  uint32_t rank = 0;
  auto id_of = [&](std::string_view token) {
    const auto id = vocabulary.find(token);
    if (!id) fail("{}[{}]: token \"{}\" is not in the vocabulary", merges.where(), rank, token);
    return *id;
  };
  for (simdjson::dom::element entry : entries) {
    const auto [left, right] = merge_pair(merges, entry, rank);
    if (right.size() < prefix)
      fail("{}[{}]: \"{}\" lacks the continuing_subword_prefix", merges.where(), rank, right);
    merged.assign(left).append(right.substr(prefix));
    model.add_merge(id_of(left), id_of(right), rank, id_of(merged));
    ++rank;
  }
}

std::optional<TokenId> unknown_token(const JsonNode& model, const Vocabulary& vocabulary) {
  const auto unknown = model.find("unk_token");
  if (!unknown) return std::nullopt;
  const auto id = vocabulary.find(unknown->string());
  if (!id) fail("{}: token \"{}\" is not in the vocabulary", unknown->where(), unknown->string());
  return id;
}

// Byte-level words are bytes, so nothing is left to fall back from once each of them has a token.
void check_byte_level(const JsonNode& model, const BpeModel& out) {
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!model.text(key, "").empty())
      refuse("{}: model option \"{}\" is not supported together with ByteLevel", model.where(), key);
  if (!model.flag("byte_fallback", false)) return;
  for (const std::string& letter : ByteAlphabet::get().of_byte)
    if (!out.vocabulary().find(letter))
      refuse(
          "{}: model option \"byte_fallback\" together with ByteLevel and an incomplete byte alphabet "
          "(\"{}\" "
          "is missing) is not supported",
          model.where(), letter);
}

std::unique_ptr<WordModel> read_bpe(const JsonNode& model, bool byte_level) {
  if (const auto dropout = model.find("dropout"))
    if (double rate = 0; dropout->element().get(rate) != simdjson::SUCCESS || rate != 0)
      refuse("{}: BPE dropout is not supported; set it to null", dropout->where());
  auto out = std::make_unique<BpeModel>();
  BpeOptions& options = out->options();
  options.symbols = byte_level ? BpeSymbols::bytes : BpeSymbols::characters;
  options.ignore_merges = model.flag("ignore_merges", false);
  options.fuse_unknown = model.flag("fuse_unk", false);
  read_vocabulary(model.at("vocab"), out->vocabulary());
  if (byte_level) {
    check_byte_level(model, *out);
  } else {
    options.byte_fallback = model.flag("byte_fallback", false);
    options.continuing_prefix = model.text("continuing_subword_prefix", "");
    options.word_suffix = model.text("end_of_word_suffix", "");
  }
  read_merges(model.at("merges"), *out);
  options.unknown = unknown_token(model, out->vocabulary());
  return out;
}

std::unique_ptr<WordModel> read_unigram(const JsonNode& model) {
  auto out = std::make_unique<UnigramModel>();
  const JsonNode vocab = model.at("vocab");
  const simdjson::dom::array entries = vocab.array();
  const size_t count = count_of(entries);
  out->vocabulary().reserve(count);
  TokenId id = 0;
  for (simdjson::dom::element entry : entries) {
    std::string_view piece;
    double score = 0;
    simdjson::dom::array pair;
    if (entry.get(pair) != simdjson::SUCCESS || pair.size() != 2 ||
        pair.at(0).get(piece) != simdjson::SUCCESS || pair.at(1).get(score) != simdjson::SUCCESS)
      fail("{}[{}]: expected [\"piece\", log-probability]", vocab.where(), id);
    if (!out->vocabulary().add(piece, id))
      fail("{}[{}]: the piece \"{}\" stands there twice", vocab.where(), id, piece);
    out->set_score(id++, score);
  }
  UnigramOptions& options = out->options();
  options.byte_fallback = model.flag("byte_fallback", false);
  options.where = model.where();
  if (const auto unknown = model.find("unk_id")) {
    const int64_t unknown_id = unknown->integer();
    if (unknown_id < 0 || unknown_id >= id)
      fail("{}: {} is not the id of a piece", unknown->where(), unknown_id);
    options.unknown = static_cast<TokenId>(unknown_id);
  }
  return out;
}

std::unique_ptr<WordModel> read_word_piece(const JsonNode& model) {
  auto out = std::make_unique<WordPieceModel>();
  read_vocabulary(model.at("vocab"), out->vocabulary());
  WordPieceOptions& options = out->options();
  const auto unknown = unknown_token(model, out->vocabulary());
  if (!unknown) fail("{}: key \"unk_token\" is missing", model.where());
  options.unknown = *unknown;
  options.continuing_prefix = model.text("continuing_subword_prefix", "##");
  if (const auto longest = model.find("max_input_chars_per_word")) {
    if (longest->integer() < 0) fail("{}: expected a count", longest->where());
    options.longest_word = static_cast<size_t>(longest->integer());
  }
  return out;
}

}  // namespace

std::unique_ptr<WordModel> read_word_model(const JsonNode& model, bool byte_level) {
  // Files from before 2021 leave out the type.
  const auto vocab = model.find("vocab");
  const std::string type = model.text("type", model.find("merges")         ? "BPE"
                                              : vocab && vocab->is_array() ? "Unigram"
                                              : model.find("unk_token")    ? "WordPiece"
                                                                           : "unknown");
  if (type == "BPE") return read_bpe(model, byte_level);
  if (byte_level && (type == "Unigram" || type == "WordPiece"))
    refuse("{}: model type \"{}\" together with ByteLevel is not supported", model.where(), type);
  if (type == "Unigram") return read_unigram(model);
  if (type == "WordPiece") return read_word_piece(model);
  refuse("{}: model type \"{}\" is not supported", model.where(), type);
}

}  // namespace attune::text
