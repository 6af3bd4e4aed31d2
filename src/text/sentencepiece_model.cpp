#include "text/sentencepiece_model.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <string_view>

#include "text/unicode.h"
#include "util/error.h"
#include "util/files.h"

namespace attune::text {
namespace {

constexpr uint64_t kLargestFile = 256u << 20;

// One field of a message; which member holds it follows from the wire type.
struct Field {
  uint32_t number = 0;
  uint32_t wire = 0;
  uint64_t number_value = 0;
  std::string_view bytes;
};

class WireReader {
 public:
  WireReader(std::string_view bytes, std::string where) : bytes_(bytes), where_(std::move(where)) {}

  void for_each(const std::function<void(const Field&)>& visit) {
    while (at_ < bytes_.size()) visit(next());
  }

 private:
  [[noreturn]] void broken(const char* what) const {
    fail("{}: not a SentencePiece model: {} at byte {}", where_, what, at_);
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (at_ >= bytes_.size()) broken("the file ends inside a number");
      const auto byte = static_cast<uint8_t>(bytes_[at_++]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    broken("a number with more than ten bytes");
  }

  std::string_view take(uint64_t count) {
    if (count > bytes_.size() - at_) broken("a field reaches behind the end");
    const std::string_view out = bytes_.substr(at_, count);
    at_ += count;
    return out;
  }

  uint64_t fixed(size_t count) {
    uint64_t value = 0;
    const std::string_view raw = take(count);
    for (size_t i = 0; i < count; ++i)
      value |= static_cast<uint64_t>(static_cast<uint8_t>(raw[i])) << (8 * i);
    return value;
  }

  Field next() {
    const uint64_t tag = varint();
    Field field;
    field.number = static_cast<uint32_t>(tag >> 3);
    field.wire = static_cast<uint32_t>(tag & 7);
    if (tag > UINT32_MAX || field.number == 0) broken("a field number out of range");
    if (field.wire == 0)
      field.number_value = varint();
    else if (field.wire == 1)
      field.number_value = fixed(8);
    else if (field.wire == 2)
      field.bytes = take(varint());
    else if (field.wire == 5)
      field.number_value = fixed(4);
    else
      broken("an unknown wire type");
    return field;
  }

  std::string_view bytes_;
  std::string where_;
  size_t at_ = 0;
};

void expect_wire(const Field& field, uint32_t wire, const std::string& where, const char* name) {
  if (field.wire != wire) fail("{}: {}: has wire type {}, expected {}", where, name, field.wire, wire);
}

Piece read_piece(std::string_view bytes, const std::string& where) {
  Piece piece;
  WireReader(bytes, where).for_each([&](const Field& field) {
    if (field.number == 1) {
      expect_wire(field, 2, where, "piece");
      piece.text = field.bytes;
    } else if (field.number == 2) {
      expect_wire(field, 5, where, "score");
      piece.score = std::bit_cast<float>(static_cast<uint32_t>(field.number_value));
    } else if (field.number == 3) {
      expect_wire(field, 0, where, "type");
      if (field.number_value < 1 || field.number_value > 6)
        fail("{}: type: {} is unknown, expected 1 to 6", where, field.number_value);
      piece.type = static_cast<PieceType>(field.number_value);
    }
  });
  if (piece.text.empty()) fail("{}: piece: is empty", where);
  if (!is_valid_utf8(piece.text)) fail("{}: piece: is not UTF-8", where);
  if (std::isnan(piece.score)) fail("{}: score: is not a number", where);
  return piece;
}

void read_trainer(std::string_view bytes, SentencePieceModel& model) {
  static const char* const kinds[] = {"", "unigram", "BPE", "word", "char"};
  uint64_t kind = 1;
  WireReader(bytes, model.where + ": trainer_spec").for_each([&](const Field& field) {
    if (field.number == 3 && field.wire == 0) kind = field.number_value;
    if (field.number == 24 && field.wire == 0 && field.number_value)
      refuse("{}: trainer_spec.treat_whitespace_as_suffix is not supported", model.where);
    if (field.number == 35 && field.wire == 0) model.byte_fallback = field.number_value != 0;
    if (field.number == 46 && field.wire == 2) model.bos_piece = field.bytes;
    if (field.number == 47 && field.wire == 2) model.eos_piece = field.bytes;
    if (field.number == 48 && field.wire == 2) model.pad_piece = field.bytes;
  });
  model.is_unigram = kind == 1;
  if (kind != 1 && kind != 2)
    refuse("{}: a SentencePiece model of type \"{}\" is not supported, only BPE and Unigram are", model.where,
           kind < std::size(kinds) && kind ? kinds[kind] : std::to_string(kind));
}

void read_normalizer(std::string_view bytes, SentencePieceModel& model) {
  WireReader(bytes, model.where + ": normalizer_spec").for_each([&](const Field& field) {
    if (field.number == 2 && field.wire == 2 && !field.bytes.empty())
      model.charsmap.emplace(field.bytes, model.where + ": normalizer_spec.precompiled_charsmap");
    if (field.number == 3 && field.wire == 0) model.add_dummy_prefix = field.number_value != 0;
    if (field.number == 4 && field.wire == 0) model.remove_extra_whitespaces = field.number_value != 0;
    if (field.number == 5 && field.wire == 0 && !field.number_value)
      refuse("{}: normalizer_spec.escape_whitespaces = false is not supported", model.where);
  });
}

void check_pieces(const SentencePieceModel& model) {
  size_t unknown = 0, bytes = 0;
  for (const Piece& piece : model.pieces) {
    unknown += piece.type == PieceType::unknown;
    bytes += piece.type == PieceType::byte;
  }
  if (unknown != 1) fail("{}: {} pieces of type UNKNOWN, expected one", model.where, unknown);
  if (model.byte_fallback && bytes != 256)
    fail("{}: {} pieces of type BYTE, expected 256", model.where, bytes);
}

}  // namespace

SentencePieceModel SentencePieceModel::read(const fs::path& file) {
  const std::string content = read_file(file, kLargestFile);
  SentencePieceModel model;
  model.where = file.string();
  bool has_trainer = false, has_normalizer = false;
  WireReader(content, model.where).for_each([&](const Field& field) {
    if (field.number > 3 && field.number != 4 && field.number != 5) return;  // extensions
    expect_wire(field, 2, model.where, "a field of the model");
    if (field.number == 1)
      model.pieces.push_back(
          read_piece(field.bytes, fmt::format("{}: pieces[{}]", model.where, model.pieces.size())));
    if (field.number == 2) read_trainer(field.bytes, model);
    if (field.number == 3) read_normalizer(field.bytes, model);
    has_trainer |= field.number == 2;
    has_normalizer |= field.number == 3;
  });
  if (model.pieces.empty()) fail("{}: not a SentencePiece model: it has no pieces", model.where);
  // Every trainer writes both; a file without them has been cut off.
  if (!has_trainer) fail("{}: trainer_spec is missing; is the file complete?", model.where);
  if (!has_normalizer) fail("{}: normalizer_spec is missing; is the file complete?", model.where);
  check_pieces(model);
  return model;
}

}  // namespace attune::text
