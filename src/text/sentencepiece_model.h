// The content of a SentencePiece tokenizer.model (a protobuf message), read without the protobuf library.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "text/charsmap.h"

namespace attune::text {

enum class PieceType { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct Piece {
  std::string text;
  float score = 0;
  PieceType type = PieceType::normal;
};

struct SentencePieceModel {
  // Refuses models other than BPE and Unigram by name; checks that the pieces are usable.
  static SentencePieceModel read(const std::filesystem::path& file);

  std::vector<Piece> pieces;
  bool is_unigram = false;
  bool byte_fallback = false;
  std::optional<Charsmap> charsmap;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  std::string bos_piece = "<s>", eos_piece = "</s>", pad_piece = "<pad>";
  std::string where;
};

}  // namespace attune::text
